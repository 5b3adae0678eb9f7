"""A guest that writes anything anywhere gets declared errors, in bounded time, and no more."""

from __future__ import annotations

import struct
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtio_devices import (
    DeviceStatus,
    DriverViolation,
    Feature,
    MmioTransport,
    PackedQueue,
    QueueError,
    Rng,
    SplitQueue,
    serve,
)
from virtio_devices.rng import MAX_REQUEST
from virtio_devices.testing import InterruptCounter, MmioDriver, PackedDriver, SplitDriver
from vm_memory import GuestMemory

BASE = 0x1000
SIZE = 8

# Values near what is right reach further than noise does.
addresses = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(BASE, BASE + 0x200), st.just(0x8000), st.just(0x1FFF8)
)
lengths = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 64), st.sampled_from([16, 32, 128]))
flags = st.one_of(st.integers(0, 7), st.integers(0, 0xFFFF))
indices = st.one_of(st.integers(0, SIZE), st.integers(0, 0xFFFF))
descriptors = st.builds(
    lambda *fields: struct.pack("<QIHH", *fields), addresses, lengths, flags, indices
)
tables = st.lists(descriptors, min_size=SIZE, max_size=SIZE).map(b"".join)
rings = st.lists(indices, min_size=SIZE + 3, max_size=SIZE + 3).map(
    lambda fields: struct.pack(f"<{SIZE + 3}H", *fields)
)


# The flags of a packed descriptor are where a split one has its link.
marks = st.one_of(st.just(1 << 7), st.sampled_from([0, 1 << 15, 1 << 7 | 1 << 15]))
packed_flags = st.one_of(
    st.builds(lambda mark, rest: mark | rest, marks, st.integers(0, 7)), st.integers(0, 0xFFFF)
)
packed_descriptors = st.builds(
    lambda *fields: struct.pack("<QIHH", *fields), addresses, lengths, indices, packed_flags
)
packed_tables = st.lists(packed_descriptors, min_size=SIZE, max_size=SIZE).map(b"".join)
events = st.binary(min_size=8, max_size=8)


def hostile_memory(driver_type, table, ring, noise):
    """Rings from structured noise, an indirect table at 0x8000, and noise over all of it."""
    memory = GuestMemory.from_ranges([(0, 0x20000)])
    driver = driver_type(memory, BASE, SIZE)
    memory.write(driver.layout.areas[0], table)
    memory.write(driver.layout.areas[1], ring)
    memory.write(0x8000, table[::-1])
    memory.write(0x8000 + len(table), table)
    for offset, data in noise:
        memory.write(BASE + offset, data)
    return memory, driver.layout


noises = st.lists(st.tuples(st.integers(0, 0x120), st.binary(max_size=6)), max_size=4)


def check_queue(queue):
    """Each pop is a chain in memory, None, or a QueueError; and what is taken can be given back."""
    taken = []
    with suppress(QueueError):
        while (chain := queue.pop()) is not None:
            assert chain.head not in {other.head for other in taken}
            taken.append(chain)
            chain.reader.read(min(chain.reader.size, 64))
            room = chain.writer.size
            assert sum(length for _, length in chain.writer.spans(room)) == room
    assert len(taken) <= SIZE
    for chain in taken:
        queue.add_used(chain, 0)
    queue.needs_notification()


@settings(max_examples=200, deadline=None)
@given(tables, rings, noises, st.booleans(), st.booleans())
def test_raw_split_bytes_give_nothing_but_queue_errors(table, ring, noise, event_idx, indirect):
    """Any bytes in rings and tables."""
    memory, layout = hostile_memory(SplitDriver, table, ring, noise)
    with memory:
        check_queue(SplitQueue(memory, layout, event_idx=event_idx, indirect=indirect))


@settings(max_examples=200, deadline=None)
@given(packed_tables, events, noises, st.booleans(), st.booleans())
def test_raw_packed_bytes_give_nothing_but_queue_errors(table, event, noise, event_idx, indirect):
    """Any bytes in the ring, the event structures and tables, also while the ring goes around."""
    memory, layout = hostile_memory(PackedDriver, table, event, noise)
    with memory:
        queue = PackedQueue(memory, layout, event_idx=event_idx, indirect=indirect)
        for lap in range(3):
            check_queue(queue)
            queue.enable_notification() if lap % 2 else queue.disable_notification()
            memory.write(BASE, bytes(byte ^ 0x80 for byte in table) if lap % 2 else table)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@settings(max_examples=150, deadline=None)
@given(tables, packed_tables, rings, noises, st.booleans())
def test_a_device_survives_raw_ring_bytes(
    packed, split_table, packed_table, ring, noise, event_idx
):
    """The whole device: it works, or asks for a reset and says why; memory use stays bounded."""
    table, driver_type = (packed_table, PackedDriver) if packed else (split_table, SplitDriver)
    memory, layout = hostile_memory(driver_type, table, ring, noise)
    features = int(Feature.INDIRECT_DESC)
    features |= int(Feature.EVENT_IDX) if event_idx else 0
    features |= int(Feature.RING_PACKED) if packed else 0
    asked = []

    def source(size):
        asked.append(size)
        return bytes(size)

    with memory:
        kicks = []
        transport = MmioTransport(Rng(source), memory, InterruptCounter(), kick=kicks.append)
        driver = MmioDriver(transport)
        assert driver.negotiate(features) & features == features
        driver.add_queue(0, _Placed(layout))
        driver.start()
        driver.notify(0)
        assert kicks == [0]
        for _ in range(3):
            transport.process_queue(0)
        needs_reset = bool(transport.status & DeviceStatus.DEVICE_NEEDS_RESET)
        assert needs_reset == isinstance(transport.failure, DriverViolation)
        assert len(asked) <= 3 * SIZE
        assert max(asked, default=0) <= MAX_REQUEST
        driver.write(0x070, 0)
        assert transport.status == 0


class _Placed:
    """A queue that is in memory already."""

    def __init__(self, layout):
        self.layout = layout


def test_the_worst_chains_take_bounded_time():
    """A full queue of the longest chains, all of them indirect, is walked in a second."""
    size = 1024
    with GuestMemory.from_ranges([(0, 0x200000)]) as memory:
        driver = SplitDriver(memory, BASE, size, span=0x10000)
        table = 0x100000
        for index in range(size):
            entry = struct.pack("<QIHH", 0x80000, 1, 1, (index + 1) % size)
            memory.write(table + 16 * index, entry)
        for head in range(4):
            driver.write_descriptor(head, table, 16 * size, 4)
            driver.offer(head)
        queue = SplitQueue(memory, driver.layout, indirect=True)
        began = time.process_time()
        with pytest.raises(QueueError, match=r"loops"):
            serve(queue, lambda _chain: 0)
        assert time.process_time() - began < 1


widths = st.one_of(st.sampled_from([1, 2, 4, 8]), st.integers(0, 17))
offsets = st.one_of(
    st.sampled_from(sorted({*range(0, 0x110, 4)})), st.integers(0, 0x1010), st.just(2**40)
)
values = st.one_of(
    st.sampled_from([0, 1, 3, 7, 8, 11, 15, 0x40, 0x80, 0x1000, 0x1080, 0x10C0]),
    st.integers(0, 2**32 - 1),
)
accesses = st.lists(
    st.tuples(st.sampled_from(["read", "write", "process"]), offsets, widths, values),
    max_size=60,
)
STATUS = 0x070
NEGOTIATED = [(STATUS, 1), (STATUS, 3), (0x024, 1), (0x020, 1), (STATUS, 11)]
WITH_A_QUEUE = [(0x038, 8), (0x080, 0x1000), (0x090, 0x1080), (0x0A0, 0x10C0), (0x044, 1)]
beginnings = st.sampled_from(
    [[], NEGOTIATED, NEGOTIATED + WITH_A_QUEUE, [*NEGOTIATED, *WITH_A_QUEUE, (STATUS, 15)]]
).map(lambda writes: [("write", offset, 4, value) for offset, value in writes])


@settings(max_examples=200, deadline=None)
@given(beginnings, accesses, rings)
def test_random_register_accesses_do_no_harm(beginning, after, ring):
    """Any sequence of accesses of any width: no exception, and the status stays a legal one."""
    legal = {0, 1, 3, 11, 15}
    with GuestMemory.from_ranges([(0, 0x20000)]) as memory:
        memory.write(0x1080, ring)
        reports, kicks = [], []
        transport = MmioTransport(
            Rng(bytes), memory, InterruptCounter(), kick=kicks.append, report=reports.append
        )
        for kind, offset, width, value in [*beginning, *after]:
            if kind == "process":
                transport.process_queue(value)
                continue
            data = bytearray((value & ((1 << 8 * width) - 1)).to_bytes(width, "little"))
            view = memoryview(data)
            getattr(transport, kind)(offset, view)
            assert len(data) == width
            while kicks:
                transport.process_queue(kicks.pop())
            assert transport.status & ~0xC0 in legal
            assert bool(transport.status & 0x40) == (transport.failure is not None)
        assert all(isinstance(report, DriverViolation) for report in reports)


def test_status_values_leave_nothing_behind(memory, machine):
    """A guest that writes every status value makes the host remember none of them."""
    driver = machine().driver
    known = len(DeviceStatus._value2member_map_)
    for value in range(1, 0x4000):
        driver.write(STATUS, value)
    assert len(DeviceStatus._value2member_map_) <= known + 8
