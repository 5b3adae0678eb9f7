"""A console device whose guest writes anything: declared errors, bounded time and memory."""

from __future__ import annotations

import os
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virtio_devices import ConsolePort, DriverViolation

SIZE = 8
addresses = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0x1000, 0x1200), st.sampled_from([0x8000, 0x1FFFF8])
)
descriptors = st.builds(
    lambda *fields: struct.pack("<QIHH", *fields),
    addresses,
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 64)),
    st.one_of(st.integers(0, 7), st.integers(0, 0xFFFF)),
    st.one_of(st.integers(0, SIZE), st.integers(0, 0xFFFF)),
)
tables = st.lists(descriptors, min_size=SIZE, max_size=SIZE).map(b"".join)
rings = st.lists(st.integers(0, SIZE), min_size=SIZE + 3, max_size=SIZE + 3).map(
    lambda fields: struct.pack(f"<{SIZE + 3}H", *fields)
)
many = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes a new device each time
)


@many
@given(st.integers(0, 5), tables, rings)
def test_raw_ring_bytes_do_no_harm(terminal, pipe, index, table, ring):
    """Any bytes in one queue: the device works, or asks for a reset and says why."""
    reader, writer = pipe()
    os.write(writer, b"input")
    written = []
    second = ConsolePort(lambda data: written.append(len(data)), reader)
    term = terminal(ConsolePort(), second, features=7 | 1 << 28, queue_size=SIZE)
    memory, layout = term.queues[index]._memory, term.queues[index].layout
    memory.write(layout.descriptor_table, table)
    memory.write(layout.available_ring, ring)
    memory.write(0x8000, table)
    for queue in (index, *range(6), index):
        term.machine.transport.process_queue(queue)
        assert sum(written) <= 64 * 4096
        written.clear()
    term.machine.poll()
    failure = term.machine.transport.failure
    assert failure is None or isinstance(failure, DriverViolation)
    if failure is not None:
        assert term.device.readiness == {}
    term.driver.write(0x070, 0)
    assert term.device.readiness == {}
    os.close(reader)
    os.close(writer)


@many
@given(st.lists(st.binary(max_size=12), max_size=30))
def test_raw_messages_do_no_harm(terminal, messages):
    """What the device remembers of them is bounded by its ports; every message comes back."""
    term = terminal(ConsolePort(), ConsolePort(name="agent"), size=(80, 25))
    for data in messages:
        term.write(data, queue=3)
        assert len(term.queues[3].collect()) == 1
    assert len(term.device._messages._waiting) <= 2 * 5
    term.post(*[64] * 12, queue=2)
    assert all(len(data) >= 8 for data in term.arrived(2))


@many
@given(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=9)), max_size=20))
def test_writes_to_the_configuration_do_no_harm(terminal, writes):
    """Any offset and width: at most one character comes of each, and nothing changes."""
    said = []
    term = terminal(ConsolePort(said.append))
    before = term.device.config
    for offset, data in writes:
        term.machine.transport.write(0x100 + offset, memoryview(bytearray(data)))
    assert all(len(character) == 1 for character in said)
    assert len(said) <= sum(offset == 8 for offset, _ in writes)
    assert term.device.config == before
