"""The packed queue, rule by rule, where it differs from the split one."""

from __future__ import annotations

import pytest

from virtio_devices import (
    BufferOutsideMemory,
    DeviceViolation,
    InvalidChain,
    InvalidIndirectTable,
    InvalidQueueLayout,
    PackedLayout,
    PackedQueue,
)
from virtio_devices.testing import PackedDriver
from vm_memory import GuestMemory

NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
SIZE = 4
TABLE = 0x8000
FIRST_LAP = 1 << 15


@pytest.fixture
def driver(memory):
    return PackedDriver(memory, 0x1000, SIZE)


@pytest.fixture
def queue(memory, driver):
    return PackedQueue(memory, driver.layout, indirect=True)


def write_table(memory, entries, address=TABLE):
    """An indirect table of (address, size, flags)."""
    for index, (target, size, flags) in enumerate(entries):
        entry = target.to_bytes(8, "little") + size.to_bytes(4, "little")
        entry += b"\xff\xff" + flags.to_bytes(2, "little")  # the id means nothing there
        memory.write(address + 16 * index, entry)
    return 16 * len(entries)


# Chains that are right


def test_any_size_will_do(memory):
    """The number of entries need not be a power of 2 (§2.8.10.1)."""
    for size in (1, 3, 7, 100):
        driver = PackedDriver(memory, 0x1000, size)
        queue = PackedQueue(memory, driver.layout)
        for number in range(3 * size + 1):
            driver.add([bytes([number % 256])])
            chain = queue.pop()
            assert chain.reader.read(1) == bytes([number % 256])
            queue.add_used(chain, 0)
            driver.collect()


def test_position_turns_with_the_lap(driver, queue):
    """The wrap counter begins at 1 and changes with each lap (§2.8.1)."""
    positions = []
    for _ in range(2 * SIZE):
        driver.add([b"x"])
        queue.add_used(queue.pop(), 0)
        driver.collect()
        positions.append(queue.next_used)
        assert queue.next_avail == queue.next_used
    assert positions == [FIRST_LAP | 1, FIRST_LAP | 2, FIRST_LAP | 3, 0, 1, 2, 3, FIRST_LAP]


def test_a_chain_may_go_around_the_end(driver, queue):
    """The part after the end has the other marks."""
    for data in ([b"a"] * 3, [b"b", b"c", b"d"], [b"e"] * 4):
        driver.add(data)
        chain = queue.pop()
        assert chain.reader.read(len(data)) == b"".join(data)
        queue.add_used(chain, 0)
        driver.collect()


def test_the_buffer_id_is_the_last_descriptors(driver, queue):
    """What the others say is ignored (§2.8.6)."""
    driver.offer([(0x9000, 1, 0), (0x9000, 1, 0)], 3)
    driver.write_descriptor(1, 0x9000, 1, AVAIL, 2)
    assert queue.pop().head == 2


def test_any_buffer_id_will_do(memory, driver, queue):
    """Identifiers are the driver's to choose, all 16 bits of them."""
    driver.offer([(0x9000, 1, 0)], 0xFFFF)
    chain = queue.pop()
    assert chain.head == 0xFFFF
    queue.add_used(chain, 0)
    assert memory.read(0x1000 + 12, 2) == b"\xff\xff"


def test_a_used_descriptor_says_whether_anything_was_written(memory, driver, queue):
    """WRITE and the length if so, neither if not; AVAIL and USED as the lap has them (§2.8.3)."""
    flags = []
    for written in (0, 3, 0, 3, 3, 0):
        driver.add(writable=[8])
        position = queue.next_used & ~FIRST_LAP
        queue.add_used(queue.pop(), written)
        flags.append(memory.load(0x1000 + 16 * position + 14, 2))
        assert memory.load(0x1000 + 16 * position + 8, 4) == written
        driver.collect()
    first = AVAIL | USED
    assert flags == [first, first | WRITE, first, first | WRITE, WRITE, 0]


def test_the_table_has_no_links(memory, driver, queue):
    """All entries in order; only WRITE means something in them (§2.8.7)."""
    memory.write(0x9000, b"abcd")
    entries = [(0x9000, 2, AVAIL), (0x9002, 2, NEXT | INDIRECT), (0x9100, 8, WRITE)]
    size = write_table(memory, entries)
    driver.offer([(TABLE, size, INDIRECT | WRITE)], 7)
    chain = queue.pop()
    assert chain.head == 7
    assert chain.reader.read(4) == b"abcd"
    assert chain.writer.size == 8


# Chains that are wrong


def refused(queue, error, clause):
    before = queue.next_avail
    with pytest.raises(error) as caught:
        queue.pop()
    assert caught.value.clause == clause
    assert f"§{clause}" in str(caught.value)
    assert queue.next_avail == before
    with pytest.raises(error):
        queue.pop()


def test_a_list_that_goes_on_behind_its_end_raises(driver, queue):
    """Every descriptor of a list is available when the first one is (§2.8.6)."""
    driver.offer([(0x9000, 1, NEXT)])
    refused(queue, InvalidChain, "2.8.6")


def test_a_list_longer_than_the_ring_raises(driver, queue):
    """It would come back to itself (§2.8.17): its end is a descriptor that it holds."""
    driver.offer([(0x9000, 1, NEXT)] * SIZE)
    refused(queue, InvalidChain, "2.8.16")


def test_descriptors_that_the_device_holds_are_not_taken_again(driver, queue):
    """A driver changes no descriptor before it is used (§2.8.16)."""
    for identifier in range(SIZE):
        driver.offer([(0x9000, 1, 0)], identifier)
        queue.pop()
    driver.offer([(0x9000, 1, 0)], SIZE)
    refused(queue, InvalidChain, "2.8.16")


def test_a_buffer_id_in_flight_raises(driver, queue):
    """Nobody could tell which of the two came back (§2.8.21.1)."""
    driver.offer([(0x9000, 1, 0)], 1)
    queue.pop()
    driver.offer([(0x9000, 1, 0)], 1)
    refused(queue, InvalidChain, "2.8.21.1")


def test_readable_after_writable_raises(driver, queue):
    """Writable elements come last (§2.8.17)."""
    driver.offer([(0x9000, 1, WRITE), (0x9000, 1, 0)])
    refused(queue, InvalidChain, "2.8.17")


def test_a_buffer_outside_memory_names_the_clause(driver, queue):
    """Of the packed format."""
    driver.offer([(0x1FFFF, 2, 0)])
    refused(queue, BufferOutsideMemory, "2.8.13")


@pytest.mark.parametrize("size", [0, 8, 17])
def test_a_table_of_a_broken_length_raises(driver, queue, size):
    """A table holds whole descriptors, at least one."""
    driver.offer([(TABLE, size, INDIRECT)])
    refused(queue, InvalidIndirectTable, "2.8.19")


@pytest.mark.parametrize("place", [0, 1])
def test_a_table_in_a_list_raises(memory, driver, queue, place):
    """A list has descriptors of one kind (§2.8.19)."""
    size = write_table(memory, [(0x9000, 1, 0)])
    elements = [(0x9000, 1, 0), (0x9000, 1, 0)]
    elements[place] = (TABLE, size, INDIRECT)
    driver.offer(elements)
    refused(queue, InvalidIndirectTable, "2.8.19")


def test_reserved_event_flags_mean_any_event(memory, driver, queue):
    """A driver that asks for nothing sensible is told rather than left asleep (§2.8.10)."""
    for flags in (2, 3):  # 2: EVENT_IDX was not negotiated
        memory.store(driver.layout.driver_event, 0x7FFF | flags << 16, 4)
        driver.add([b"x"])
        queue.add_used(queue.pop(), 0)
        driver.collect()
        assert queue.needs_notification()


# Layouts


@pytest.mark.parametrize(
    ("layout", "part"),
    [
        (PackedLayout(0, 0, 0x1000, 0x2000), "queue size"),
        (PackedLayout(32769, 0, 0x1000, 0x2000), "queue size"),
        (PackedLayout(4, 8, 0x1000, 0x2000), "descriptor ring"),
        (PackedLayout(4, 0, 0x1002, 0x2000), "driver event suppression"),
        (PackedLayout(4, 0, 0x1000, 0x2002), "device event suppression"),
        (PackedLayout(4, 0x1FFD0, 0x1000, 0x2000), "descriptor ring"),
        (PackedLayout(4, 0, 0x20000, 0x2000), "driver event suppression"),
    ],
)
def test_impossible_layouts_are_refused(memory, layout, part):
    """Size, alignment and place are checked before a queue exists (§2.8.10.1)."""
    with pytest.raises(InvalidQueueLayout) as caught:
        PackedQueue(memory, layout)
    assert caught.value.part == part


@pytest.mark.parametrize("ring", [0x2010, 0x1FF0])
def test_rings_in_a_region_at_an_odd_address_are_refused(ring):
    """Flags that cannot be loaded in one piece are refused at once."""
    with GuestMemory.from_ranges([(0, 0x2001), (0x2001, 0x1000)]) as memory:
        with pytest.raises(InvalidQueueLayout, match="aligned within"):
            PackedQueue(memory, PackedLayout(4, ring, 0x800, 0x900))
        with pytest.raises(InvalidQueueLayout, match="aligned within"):
            PackedQueue(memory, PackedLayout(4, 0, 0x800, 0x2010))


def test_layouts_compare_by_value():
    """Two drivers that say the same say the same."""
    assert PackedLayout(4, 0, 16, 32) == PackedLayout(4, 0, 16, 32)
    assert len({PackedLayout(4, 0, 16, 32), PackedLayout(4, 0, 16, 32)}) == 1
    assert PackedLayout(4, 0, 16, 32) != PackedLayout(4, 0, 16, 36)
    assert PackedLayout(4, 0, 16, 32) != 4
    assert "device_event=0x20" in repr(PackedLayout(4, 0, 16, 32))


# The driver's side finds what a device does wrong


def give_back(memory, driver, index, identifier, length, flags=AVAIL | USED | WRITE):
    """What a device writes, by hand, in the first lap."""
    memory.write(0x1000 + 16 * index + 8, length.to_bytes(4, "little"))
    memory.write(0x1000 + 16 * index + 12, identifier.to_bytes(2, "little"))
    memory.store(0x1000 + 16 * index + 14, flags, 2)


def test_a_chain_that_was_not_given_is_noticed(memory, driver):
    """A buffer id that is not in flight cannot come back."""
    driver.add([b"x"])
    give_back(memory, driver, 0, 3, 0)
    with pytest.raises(DeviceViolation):
        driver.collect()


def test_a_length_beyond_the_buffers_is_noticed(memory, driver):
    """A device cannot have written more than it was given; without WRITE the length is void."""
    driver.add(writable=[8])
    driver.add(writable=[8])
    give_back(memory, driver, 0, 0, 9, AVAIL | USED)
    assert [used.data for used in driver.collect()] == [b""]
    give_back(memory, driver, 1, 1, 9)
    with pytest.raises(DeviceViolation):
        driver.collect()


@pytest.mark.parametrize("event", [3 << 16, 2 << 16, 4 << 16])
def test_impossible_event_flags_are_noticed(memory, driver, event):
    """DESC without EVENT_IDX, and what does not exist (§2.8.10)."""
    driver.add([b"x"])
    memory.store(driver.layout.device_event, event, 4)
    with pytest.raises(DeviceViolation):
        driver.needs_kick()


def test_an_event_outside_the_ring_is_noticed(memory):
    """An offset is an index of the ring."""
    driver = PackedDriver(memory, 0x1000, SIZE, event_idx=True)
    driver.add([b"x"])
    memory.store(driver.layout.device_event, SIZE | 2 << 16, 4)
    with pytest.raises(DeviceViolation):
        driver.needs_kick()


def test_descriptors_come_back(memory, driver, queue):
    """A driver can go on for ever with what it has."""
    for _ in range(50):
        head = driver.add([bytes(1000)], [1000, 1000])
        assert driver.in_flight == {head}
        queue.add_used(queue.pop(), 0)
        assert [used.head for used in driver.collect()] == [head]
