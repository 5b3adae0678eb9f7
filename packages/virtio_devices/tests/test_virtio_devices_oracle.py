"""Raw ring bytes: the queues in C make of them what the rules, said in Python, make of them.

The rules are written down a second time here, as plainly as they can be: no memory order, no
defence against a guest that changes its mind, no speed.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtio_devices import PackedQueue, QueueError, SplitQueue
from virtio_devices.testing import PackedDriver, SplitDriver
from vm_memory import GuestMemory

NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
BASE, TABLE, SIZE = 0x1000, 0x8000, 4
MEMORY = [(0, 0x10000), (0x10000, 0x10000), (2**64 - 0x1000, 0x1000)]


class BrokenRuleError(Exception):
    """A rule was broken; its arguments are the kind of error and the clause."""


class Rules:
    """What both formats say about the buffers of a chain."""

    def __init__(self, memory, clauses, *, indirect):
        self.memory = memory
        self.clauses = clauses
        self.indirect = indirect
        self.buffers = []

    def take(self, address, size, flags):
        sizes = [size for _address, size, _writable in self.buffers]
        if len(sizes) == SIZE:
            raise BrokenRuleError("InvalidChain", self.clauses["length"])
        if not flags & WRITE and any(writable for _, _, writable in self.buffers):
            raise BrokenRuleError("InvalidChain", self.clauses["order"])
        if sum(sizes) + size > 2**32:
            raise BrokenRuleError("InvalidChain", self.clauses["total"])
        if not self.memory.check_range(address, size):
            raise BrokenRuleError("BufferOutsideMemory", self.clauses["memory"])
        self.buffers.append((address, size, bool(flags & WRITE)))

    def enter(self, address, size, *, wrong):
        if wrong or not self.indirect or not size or size % 16:
            raise BrokenRuleError("InvalidIndirectTable", self.clauses["indirect"])
        if not self.memory.check_range(address, size):
            raise BrokenRuleError("BufferOutsideMemory", self.clauses["memory"])

    def read(self, table, index):
        return struct.unpack("<QIHH", self.memory.read(table + 16 * index, 16))

    def side(self, side):
        return [(a, size) for a, size, writable in self.buffers if writable == side and size]

    def result(self, head):
        return (head, self.side(False), self.side(True))


def split_chains(memory, layout, *, indirect):
    """All chains that a split queue offers, up to the first broken rule."""
    clauses = {
        "length": "2.7.5.3.1",
        "order": "2.7.4.2",
        "total": "2.7.5.2",
        "memory": "2.7.5",
        "indirect": "2.7.5.3.1",
    }
    taken = set()
    available = memory.load(layout.avail_idx, 2)
    if available > SIZE:
        raise BrokenRuleError("InvalidAvailableIndex", "2.7.6.1")
    for number in range(available):
        head = index = memory.load(layout.avail_entry(number), 2)
        if head >= SIZE or head in taken:
            raise BrokenRuleError("InvalidHead", "2.7.13.2" if head >= SIZE else "2.7.13.1")
        rules = Rules(memory, clauses, indirect=indirect)
        table, entries, nested = layout.descriptor_table, SIZE, False
        more = True
        while more:
            address, size, flags, following = rules.read(table, index)
            if flags & INDIRECT:
                rules.enter(address, size, wrong=nested or flags & NEXT)
                table, entries, index, nested = address, size // 16, 0, True
                continue
            rules.take(address, size, flags)
            more = flags & NEXT
            if more and following >= entries:
                raise BrokenRuleError("InvalidChain", "2.7.5")
            index = following
        taken.add(head)
        yield rules.result(head)


def packed_chains(memory, layout, *, indirect):
    """All chains that a packed queue offers in its first lap and the next."""
    clauses = {
        "length": "2.8.17",
        "order": "2.8.17",
        "total": "2.8.4",
        "memory": "2.8.13",
        "indirect": "2.8.19",
    }
    taken = set()
    start = 0  # counted on through the laps

    def is_available(position):
        flags = memory.load(layout.descriptor(position % SIZE) + 14, 2)
        return flags & (AVAIL | USED) == (USED if position // SIZE % 2 else AVAIL)

    while is_available(start):
        rules = Rules(memory, clauses, indirect=indirect)
        position, more = start, True
        while more:
            if position >= SIZE:  # nothing was given back
                raise BrokenRuleError("InvalidChain", "2.8.16")
            if not is_available(position):
                raise BrokenRuleError("InvalidChain", "2.8.6")
            address, size, identifier, flags = rules.read(layout.descriptor_ring, position)
            more = flags & NEXT
            position += 1
            if flags & INDIRECT:
                rules.enter(address, size, wrong=more or position > start + 1)
                for index in range(size // 16):
                    buffer, length, _identifier, kind = rules.read(address, index)
                    rules.take(buffer, length, kind)
                break
            rules.take(address, size, flags)
        if identifier in taken:
            raise BrokenRuleError("InvalidChain", "2.8.21.1")
        taken.add(identifier)
        start = position
        yield rules.result(identifier)


def outcomes(chains):
    found = []
    try:
        found.extend(chains)
    except BrokenRuleError as broken:
        found.append(broken.args)
    return found


def queue_chains(queue):
    while (chain := queue.pop()) is not None:
        spans = [side.spans(side.size) for side in (chain.reader, chain.writer)]
        yield (chain.head, *spans)


def queue_outcomes(queue):
    found = []
    try:
        found.extend(queue_chains(queue))
    except QueueError as error:
        found.append((type(error).__name__, error.clause))
    return found


# Mostly right, so that chains come through.
addresses = st.one_of(
    st.sampled_from([0x9000, TABLE, BASE, 0xFFFE, 0x1FFFF, 0x20000, 2**64 - 8]),
    st.integers(0, 2**64 - 1),
)
lengths = st.one_of(st.sampled_from([0, 1, 4, 16, 32, 48, 64]), st.integers(0, 2**32 - 1))
few = st.sampled_from([0, 0, 0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | WRITE, 7])
small = st.one_of(st.integers(0, SIZE), st.integers(0, 0xFFFF))
marks = st.sampled_from([AVAIL, AVAIL, AVAIL, USED, 0, AVAIL | USED])


def table_of(*fields):
    entry = st.builds(lambda *values: struct.pack("<QIHH", *values), *fields)
    return st.lists(entry, min_size=SIZE, max_size=SIZE).map(b"".join)


split_tables = table_of(addresses, lengths, few, small)
packed_tables = table_of(addresses, lengths, small, st.builds(int.__or__, few, marks))
rings = st.lists(small, min_size=SIZE, max_size=SIZE).map(lambda heads: struct.pack("<4H", *heads))


@settings(max_examples=400, deadline=None)
@given(split_tables, split_tables, rings, small, st.booleans())
def test_split_rings_are_read_by_the_rules(table, indirect_table, ring, index, indirect):
    """The same chains, then the same error with the same clause."""
    with GuestMemory.from_ranges(MEMORY) as memory:
        layout = SplitDriver(memory, BASE, SIZE).layout
        memory.write(layout.descriptor_table, table)
        memory.write(TABLE, indirect_table)
        memory.write(layout.avail_entry(0), ring)
        memory.store(layout.avail_idx, index, 2)
        expected = outcomes(split_chains(memory, layout, indirect=indirect))
        assert queue_outcomes(SplitQueue(memory, layout, indirect=indirect)) == expected


@settings(max_examples=400, deadline=None)
@given(packed_tables, packed_tables, st.booleans())
def test_packed_rings_are_read_by_the_rules(table, indirect_table, indirect):
    """The same chains, then the same error with the same clause."""
    with GuestMemory.from_ranges(MEMORY) as memory:
        layout = PackedDriver(memory, BASE, SIZE).layout
        memory.write(layout.descriptor_ring, table)
        memory.write(TABLE, indirect_table)
        expected = outcomes(packed_chains(memory, layout, indirect=indirect))
        assert queue_outcomes(PackedQueue(memory, layout, indirect=indirect)) == expected


@pytest.mark.parametrize("border", [0x1010, 0x1020, 0x1040, 0x1050, 0x1060])
def test_rings_may_lie_in_several_regions(ring, border):
    """A border in the middle of a ring changes nothing, and what is written there is marked."""
    size = 4
    ranges = [(0, border), (border, 0x20000 - border)]
    with GuestMemory.from_ranges(ranges, track_dirty=True) as memory:
        for event_idx in (False, True):
            driver, queue = ring.pair(memory, size, event_idx=event_idx)
            for number in range(3 * size):
                driver.enable_interrupts()
                driver.add([bytes([number])], [1])
                chain = queue.pop()
                assert chain.reader.read(1) == bytes([number])
                chain.writer.write(bytes([number]))
                memory.get_and_reset_dirty()
                queue.add_used(chain, 1)
                assert memory.get_and_reset_dirty() != []
                assert queue.needs_notification()
                assert [used.data for used in driver.collect()] == [bytes([number])]
                assert not queue.enable_notification()
