"""A network device whose guest writes anything: declared errors, bounded time, whole frames."""

from __future__ import annotations

import struct
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virtio_devices import DeviceFailed, DriverViolation, Feature, NetFeature
from virtio_devices.net.control import ControlCommands
from virtio_devices.net.frame import LARGEST, SMALLEST

SIZE = 8
EVERYTHING = (1 << 24) - 1 | int(Feature.INDIRECT_DESC)

addresses = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0x1000, 0x1200), st.sampled_from([0x8000, 0x1FFFF8])
)
lengths = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 128), st.sampled_from([1530, 65550]))
descriptors = st.builds(
    lambda *fields: struct.pack("<QIHH", *fields),
    addresses,
    lengths,
    st.one_of(st.integers(0, 7), st.integers(0, 0xFFFF)),
    st.one_of(st.integers(0, SIZE), st.integers(0, 0xFFFF)),
)
tables = st.lists(descriptors, min_size=SIZE, max_size=SIZE).map(b"".join)
rings = st.lists(st.integers(0, SIZE), min_size=SIZE + 3, max_size=SIZE + 3).map(
    lambda fields: struct.pack(f"<{SIZE + 3}H", *fields)
)
function_fixture = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes a new device each time
)


@function_fixture
@given(st.integers(0, 2), tables, rings, st.lists(st.binary(max_size=200), max_size=6))
def test_raw_ring_bytes_do_no_harm(network, index, table, ring, incoming):
    """Any bytes in one queue: the device works, or asks for a reset and says why; the others too.

    What reaches the wire is of a frame's size, and the host's side never sees an exception.
    """
    net = network(EVERYTHING, queue_size=SIZE)
    memory = net.driver._memory
    layout = net.driver.queues[index].layout
    memory.write(layout.descriptor_table, table)
    memory.write(layout.available_ring, ring)
    memory.write(0x8000, table)
    for data in incoming:
        if data:
            net.wire.far[0].send(data)
    for queue in (index, 0, 1, 2, index):
        net.machine.transport.process_queue(queue)
    net.machine.poll()
    failure = net.machine.transport.failure
    assert failure is None or isinstance(failure, DriverViolation)
    assert all(SMALLEST <= len(data) <= LARGEST for data in net.wire.arrived())
    net.machine.driver.write(0x070, 0)
    assert net.device.readiness == {}


@function_fixture
@given(st.binary(max_size=64), st.booleans())
def test_raw_commands_get_an_answer(network, data, everything):
    """One byte, 0 or 1, whatever was asked; the configuration keeps a station's address."""
    net = network(EVERYTHING if everything else NetFeature.CTRL_VQ, queues=2)
    net.driver.queues[2 * net.driver.pairs].add([data], [1])
    net.machine.driver.notify(2 * net.driver.pairs)
    net.machine.run()
    (answer,) = net.driver.answers()
    assert answer in (0, 1)
    assert not net.device.config[0] & 1
    assert net.wire.active in (1, 2)


class Effects:
    """Accepts everything."""

    def __getattr__(self, name):
        return lambda *_: True


class Endless:
    """A request's readable bytes: a table of 2^32 - 1 addresses, as far as it is read."""

    def __init__(self):
        self.taken = 0

    def read(self, size):
        self.taken += size
        return (b"\1\0" + b"\xff" * 4)[self.taken - size : self.taken].ljust(size, b"\xff")


def test_a_command_costs_the_host_little_memory(network):
    """Its length is the guest's to choose; what cannot be is refused before it is read."""
    request = Endless()
    answers = []
    chain = SimpleNamespace(reader=request, writer=SimpleNamespace(size=1, write=answers.append))
    assert ControlCommands(EVERYTHING, Effects()).handle(chain) == 1
    assert (answers, request.taken) == ([b"\1"], 6)


def test_a_frame_of_the_most_pieces_is_sent_or_dropped(network):
    """256 descriptors of one frame are one writev; nothing is sent in part."""
    net = network(EVERYTHING, queue_size=256)
    net.driver.queues[1].add([b"\0" * 12] + [b"x"] * 254 + [b"y" * 1000])
    net.machine.driver.notify(1)
    net.machine.run()
    assert net.wire.arrived() == [bytes(12) + b"x" * 254 + b"y" * 1000]


def test_the_worst_queues_take_bounded_time(network):
    """A receive ring of buffers without room, again and again, does not hold the device up."""
    net = network(EVERYTHING, queue_size=256)
    for _ in range(256):
        net.driver.queues[0].add(writable=[0])
    net.wire.far[0].send(bytes(100))
    began = time.process_time()
    net.machine.transport.process_queue(0)
    assert time.process_time() - began < 1
    assert net.counters.rx_bad_buffers == 256


@pytest.mark.parametrize("index", range(3))
def test_a_broken_queue_is_reported_with_its_clause(network, index):
    """The device asks for a reset, and waits for nothing until it comes."""
    net = network(EVERYTHING, queue_size=SIZE)
    net.driver.queues[index].write_descriptor(0, 0xDEAD_0000, 64)
    net.driver.queues[index].offer(0)
    net.wire.far[0].send(bytes(100))
    net.machine.transport.process_queue(index)
    failure = net.machine.transport.failure
    assert not isinstance(failure, DeviceFailed)
    assert failure.clause == "2.7.5"
    assert net.device.readiness == {}
