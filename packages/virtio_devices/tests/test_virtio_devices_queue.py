"""The split queue, rule by rule, beyond what both formats promise alike."""

from __future__ import annotations

import pytest

from virtio_devices import (
    InvalidAvailableIndex,
    InvalidChain,
    InvalidHead,
    InvalidIndirectTable,
    InvalidQueueLayout,
    SplitLayout,
    SplitQueue,
)
from virtio_devices.testing import SplitDriver
from vm_memory import GuestMemory

NEXT, WRITE, INDIRECT = 1, 2, 4
SIZE = 4
TABLE = 0x8000


@pytest.fixture
def driver(memory):
    return SplitDriver(memory, 0x1000, SIZE)


@pytest.fixture
def queue(memory, driver):
    return SplitQueue(memory, driver.layout, indirect=True)


def write_table(memory, entries, address=TABLE):
    """An indirect table of (address, size, flags, next)."""
    for index, (target, size, flags, following) in enumerate(entries):
        entry = target.to_bytes(8, "little") + size.to_bytes(4, "little")
        entry += flags.to_bytes(2, "little") + following.to_bytes(2, "little")
        memory.write(address + 16 * index, entry)
    return 16 * len(entries)


# Chains that are right


def test_indices_wrap_at_65536(driver, queue):
    """More chains than an index can count pass through a queue."""
    for _ in range(0x10000 + 3):
        driver.offer(0)
        queue.add_used(queue.pop(), 0)
    assert (queue.next_avail, queue.next_used) == (3, 3)


def test_descriptors_may_precede_an_indirect_table(memory, driver, queue):
    """Normal descriptors, then one table, are one chain (§2.7.5.3.2)."""
    memory.write(0x9000, b"abcd")
    size = write_table(memory, [(0x9002, 2, NEXT, 1), (0x9100, 8, WRITE, 0)])
    driver.write_descriptor(0, 0x9000, 2, NEXT, 1)
    driver.write_descriptor(1, TABLE, size, INDIRECT)
    driver.offer(0)
    chain = queue.pop()
    assert chain.reader.read(4) == b"abcd"
    assert chain.writer.size == 8


def test_write_flag_of_a_table_is_ignored(memory, driver, queue):
    """The flag means nothing on the descriptor that refers to a table (§2.7.5.3.2)."""
    size = write_table(memory, [(0x9000, 2, 0, 0)])
    driver.write_descriptor(0, TABLE, size, INDIRECT | WRITE)
    driver.offer(0)
    assert queue.pop().reader.size == 2


def test_a_table_may_be_longer_than_its_chain(memory, driver, queue):
    """Entries that no descriptor leads to cost nothing, however many there are."""
    write_table(memory, [(0x9000, 2, 0, 0)])
    driver.write_descriptor(0, TABLE, 0x10000, INDIRECT)
    driver.offer(0)
    assert queue.pop().reader.size == 2


# Chains that are wrong: an error that names the clause, and the fault stays


def refused(queue, error, clause):
    with pytest.raises(error) as caught:
        queue.pop()
    assert caught.value.clause == clause
    assert f"§{clause}" in str(caught.value)
    assert queue.next_avail == 0
    with pytest.raises(error):
        queue.pop()


def test_available_index_beyond_the_ring_raises(memory, driver, queue):
    """More chains than the ring has entries cannot be available."""
    memory.store(driver.layout.avail_idx, SIZE + 1, 2)
    refused(queue, InvalidAvailableIndex, "2.7.6.1")


def test_head_beyond_the_table_raises(driver, queue):
    """A head is an index into the table."""
    driver.offer(SIZE)
    refused(queue, InvalidHead, "2.7.13.2")


def test_head_in_flight_raises(driver, queue):
    """A chain cannot be offered twice before it comes back, or its memory is written twice."""
    driver.add([b"x"])
    queue.pop()
    driver.offer(0)
    with pytest.raises(InvalidHead):
        queue.pop()
    assert queue.in_flight == {0}


@pytest.mark.parametrize("following", [SIZE, 99])
def test_next_beyond_the_table_raises(driver, queue, following):
    """The walk does not leave the table."""
    driver.write_descriptor(0, 0x9000, 1, NEXT, following)
    driver.offer(0)
    refused(queue, InvalidChain, "2.7.5")


def test_loop_raises(driver, queue):
    """A chain that comes back to itself ends after as many steps as the queue has entries."""
    driver.write_descriptor(0, 0x9000, 1, NEXT, 1)
    driver.write_descriptor(1, 0x9000, 1, NEXT, 0)
    driver.offer(0)
    refused(queue, InvalidChain, "2.7.5.3.1")


def test_loop_in_an_indirect_table_raises(memory, driver, queue):
    """The limit is the queue's size there, too."""
    size = write_table(memory, [(0x9000, 1, NEXT, 0)] * 64)
    driver.write_descriptor(0, TABLE, size, INDIRECT)
    driver.offer(0)
    refused(queue, InvalidChain, "2.7.5.3.1")


def test_chain_longer_than_the_queue_through_a_table_raises(memory, driver, queue):
    """Descriptors in a table count for the limit (rust-vmm counts the table's own length)."""
    last = [(0x9000, 1, 0, 0)]
    size = write_table(memory, [(0x9000, 1, NEXT, index + 1) for index in range(SIZE)] + last)
    driver.write_descriptor(0, TABLE, size, INDIRECT)
    driver.offer(0)
    refused(queue, InvalidChain, "2.7.5.3.1")


def test_readable_after_writable_raises(driver, queue):
    """Writable descriptors come last (§2.7.4.2)."""
    driver.write_descriptor(0, 0x9000, 1, NEXT | WRITE, 1)
    driver.write_descriptor(1, 0x9000, 1)
    driver.offer(0)
    refused(queue, InvalidChain, "2.7.4.2")


def test_chain_of_more_than_4_gib_raises():
    """Overlapping buffers could add up to anything; 2^32 bytes is the limit."""
    with GuestMemory.from_ranges([(0, 2**32)]) as memory:
        driver = SplitDriver(memory, 0x1000, SIZE)
        driver.write_descriptor(0, 0, 2**32 - 1, NEXT, 1)
        driver.write_descriptor(1, 0, 1, NEXT, 2)
        driver.write_descriptor(2, 0, 1)
        driver.offer(0)
        refused(SplitQueue(memory, driver.layout), InvalidChain, "2.7.5.2")


def test_a_full_4_gib_chain_is_returned_with_the_largest_length():
    """2^32 written bytes do not fit the field; the driver learns one less (§2.7.8.2)."""
    with GuestMemory.from_ranges([(0, 2**32)]) as memory:
        driver = SplitDriver(memory, 0x1000, SIZE)
        driver.write_descriptor(0, 0, 2**32 - 1, NEXT | WRITE, 1)
        driver.write_descriptor(1, 0, 1, WRITE)
        driver.offer(0)
        queue = SplitQueue(memory, driver.layout)
        queue.add_used(queue.pop(), 2**32)
        assert memory.load(driver.layout.used_entry(0) + 4, 4) == 2**32 - 1


@pytest.mark.parametrize("size", [0, 8, 17])
def test_table_of_a_broken_length_raises(driver, queue, size):
    """A table holds whole descriptors, at least one."""
    driver.write_descriptor(0, TABLE, size, INDIRECT)
    driver.offer(0)
    refused(queue, InvalidIndirectTable, "2.7.5.3.1")


def test_table_with_a_next_descriptor_raises(memory, driver, queue):
    """INDIRECT and NEXT exclude each other (rust-vmm ignores NEXT)."""
    size = write_table(memory, [(0x9000, 1, 0, 0)])
    driver.write_descriptor(0, TABLE, size, INDIRECT | NEXT, 1)
    driver.offer(0)
    refused(queue, InvalidIndirectTable, "2.7.5.3.1")


def test_table_inside_a_table_raises(memory, driver, queue):
    """There is one level of indirection."""
    size = write_table(memory, [(TABLE, 16, INDIRECT, 0)])
    driver.write_descriptor(0, TABLE, size, INDIRECT)
    driver.offer(0)
    refused(queue, InvalidIndirectTable, "2.7.5.3.1")


# Layouts


@pytest.mark.parametrize(
    ("layout", "part", "clause"),
    [
        (SplitLayout(0, 0, 0x1000, 0x2000), "queue size", "2.7"),
        (SplitLayout(3, 0, 0x1000, 0x2000), "queue size", "2.7"),
        (SplitLayout(65536, 0, 0x1000, 0x2000), "queue size", "2.7"),
        (SplitLayout(4, 8, 0x1000, 0x2000), "descriptor table", "2.7.1"),
        (SplitLayout(4, 0, 0x1001, 0x2000), "available ring", "2.7.1"),
        (SplitLayout(4, 0, 0x1000, 0x2002), "used ring", "2.7.1"),
        (SplitLayout(4, 0x1FFD0, 0x1000, 0x2000), "descriptor table", "2.7"),
        (SplitLayout(4, 0, 0x1FFF4, 0x2000), "available ring", "2.7"),
        (SplitLayout(4, 0, 0x1000, 2**64 - 36), "used ring", "2.7"),
    ],
)
def test_impossible_layouts_are_refused(memory, layout, part, clause):
    """Size, alignment and place are checked before a queue exists."""
    with pytest.raises(InvalidQueueLayout) as caught:
        SplitQueue(memory, layout)
    assert (caught.value.part, caught.value.clause) == (part, clause)


def test_rings_in_a_region_at_an_odd_address_are_refused():
    """Fields that cannot be loaded in one piece are refused at once, not in the middle of work."""
    with (
        GuestMemory.from_ranges([(0, 0x1000), (0x2001, 0x1000)]) as memory,
        pytest.raises(InvalidQueueLayout),
    ):
        SplitQueue(memory, SplitLayout(4, 0, 0x2100, 0x800))


def test_layouts_compare_by_value():
    """Two drivers that say the same say the same."""
    assert SplitLayout(4, 0, 0x1000, 0x2000) == SplitLayout(4, 0, 0x1000, 0x2000)
    assert len({SplitLayout(4, 0, 16, 32), SplitLayout(4, 0, 16, 32)}) == 1
    assert SplitLayout(4, 0, 0x1000, 0x2000) != SplitLayout(8, 0, 0x1000, 0x2000)
    assert SplitLayout(4, 0, 16, 32) != 4
    assert "used_ring=0x20" in repr(SplitLayout(4, 0, 16, 32))


# Telling the driver


def test_batch_that_passes_the_event_is_notified(memory):
    """It does not matter where in a batch the event lies, also across the wrap."""
    driver = SplitDriver(memory, 0x1000, SIZE, event_idx=True)
    queue = SplitQueue(memory, driver.layout, event_idx=True)
    for _ in range(0x10000 - 2):
        driver.offer(0)
        queue.add_used(queue.pop(), 0)
    queue.needs_notification()
    memory.store(driver.layout.used_event, 1, 2)
    for expected in (False, False, False, True):
        driver.offer(0)
        queue.add_used(queue.pop(), 0)
        assert queue.needs_notification() == expected


def test_64k_entries_at_once_pass_every_event(memory):
    """An index that came all the way round has passed any event."""
    driver = SplitDriver(memory, 0x1000, SIZE, event_idx=True)
    queue = SplitQueue(memory, driver.layout, event_idx=True)
    for _ in range(0x10000):
        driver.offer(0)
        queue.add_used(queue.pop(), 0)
    assert queue.needs_notification()


# Being told by the driver


def test_enabling_finds_a_broken_index(memory, driver, queue):
    """The check for more work does not believe the index either."""
    memory.store(driver.layout.avail_idx, 0x8000, 2)
    with pytest.raises(InvalidAvailableIndex):
        queue.enable_notification()


def test_flags_stay_zero_with_event_idx(memory):
    """With EVENT_IDX the device leaves its flags at 0 (§2.7.10.2)."""
    driver = SplitDriver(memory, 0x1000, SIZE, event_idx=True)
    queue = SplitQueue(memory, driver.layout, event_idx=True)
    queue.disable_notification()
    assert memory.load(driver.layout.used_flags, 2) == 0
