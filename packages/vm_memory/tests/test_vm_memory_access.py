"""GuestMemory: the rules of its docstring, one by one."""

from __future__ import annotations

from array import array

import pytest

from vm_memory import (
    GuestAccessError,
    GuestMemory,
    GuestRegion,
    InvalidGuestAddress,
    MemoryRegionOverlap,
    MisalignedAccess,
    NoSuchRegion,
    PartialBuffer,
    VmMemoryError,
)

TOP = 2**64


@pytest.fixture
def memory():
    """Two adjacent regions, a hole, a third, and one at the top of the address space."""
    with GuestMemory.from_ranges(
        [(0x3000, 0x1000), (0, 0x1000), (0x1000, 0x1000), (TOP - 0x1000, 0x1000)]
    ) as memory:
        yield memory


def test_regions_are_sorted(memory):
    """The order in which ranges are given does not matter."""
    assert [r.start_addr for r in memory.regions] == [0, 0x1000, 0x3000, TOP - 0x1000]
    assert memory.last_addr == TOP - 1
    assert repr(memory).startswith("<GuestMemory [<GuestRegion 0x0-0xfff>,")


def test_find_region_knows_both_ends(memory):
    """First and last address belong to a region; the next one does not."""
    for address, start in [
        (0, 0),
        (0xFFF, 0),
        (0x1000, 0x1000),
        (0x3FFF, 0x3000),
        (TOP - 1, TOP - 0x1000),
    ]:
        assert memory.find_region(address).start_addr == start
    for address in (-1, 0x2000, 0x2FFF, 0x4000, TOP, TOP + 1):
        assert memory.find_region(address) is None


def test_check_range(memory):
    """Adjacent regions count as one; a hole and the end of the space do not."""
    assert memory.check_range(0, 0x2000)
    assert memory.check_range(0x1FFF, 1)
    assert not memory.check_range(0, 0x2001)
    assert not memory.check_range(0x2000, 1)
    assert memory.check_range(TOP - 0x1000, 0x1000)
    assert not memory.check_range(TOP - 1, 2)


def test_empty_access_succeeds_anywhere(memory):
    """Zero bytes touch nothing, in memory or not."""
    for address in (0, 0x2000, TOP - 1, TOP, -1):
        assert memory.read(address, 0) == b""
        memory.write(address, b"")
        memory.write(address, bytearray())
        memory.read_into(address, bytearray())
        assert memory.iovec(address, 0) == []
        assert len(memory.view(address, 0)) == 0
        assert memory.check_range(address, 0)
        assert memory.read_from_fd(address, -1, 0) == 0
        assert memory.write_to_fd(address, -1, 0) == 0


def test_negative_size_is_a_value_error(memory):
    """A negative size is the caller's mistake, not the guest's."""
    for access in (
        memory.read,
        memory.view,
        memory.iovec,
        memory.check_range,
        memory.mark_dirty,
        memory.load,
    ):
        for address in (0, 0x2000):
            with pytest.raises(ValueError, match="a size cannot be negative, as -1 is"):
                access(address, -1)


def test_access_crosses_adjacent_regions(memory):
    """The border between two adjacent regions is invisible."""
    memory.write(0xFFE, b"abcd")
    assert memory.read(0xFFE, 4) == b"abcd"
    buffer = bytearray(4)
    memory.read_into(0xFFE, buffer)
    assert buffer == b"abcd"
    assert [bytes(view) for view in memory.iovec(0xFFE, 4)] == [b"ab", b"cd"]


def test_first_byte_outside_is_invalid(memory):
    """Nothing is transferred, and the error knows the request."""
    for access in (
        lambda: memory.read(0x2000, 4),
        lambda: memory.write(0x2000, b"abcd"),
        lambda: memory.read_into(0x2000, bytearray(4)),
        lambda: memory.view(0x2000, 4),
        lambda: memory.iovec(0x2000, 4),
        lambda: memory.load(0x2000, 4),
        lambda: memory.store(0x2000, 0, 4),
        lambda: memory.read_from_fd(0x2000, -1, 4),
    ):
        with pytest.raises(
            InvalidGuestAddress, match=r"no guest memory at 0x2000 \(access of 0x4 bytes\)"
        ) as caught:
            access()
        assert (caught.value.address, caught.value.size) == (0x2000, 4)


def test_partial_write_has_written_the_start(memory):
    """`completed` bytes of a write, or of a read_into, have been transferred."""
    for data in (b"abcd", bytearray(b"abcd"), memoryview(b"abcd")):
        memory.write(0x1FFE, b"..")
        with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0x1ffe") as caught:
            memory.write(0x1FFE, data)
        assert (caught.value.expected, caught.value.completed) == (4, 2)
        assert memory.read(0x1FFE, 2) == b"ab"
    buffer = bytearray(4)
    with pytest.raises(PartialBuffer, match="the range ends at 0x2000"):
        memory.read_into(0x1FFE, buffer)
    assert buffer == b"ab\0\0"


def test_partial_read_says_how_far_it_would_get(memory):
    """The same across a border and at the end of the address space."""
    for address, size, completed in [(0xFFE, 0x1003, 0x1002), (TOP - 3, 4, 3)]:
        for access in (memory.read, memory.iovec):
            with pytest.raises(PartialBuffer) as caught:
                access(address, size)
            assert (caught.value.expected, caught.value.completed) == (size, completed)


def test_view_is_the_memory_itself(memory):
    """What is written through a view is in the guest."""
    memory.view(0x10, 4)[:] = b"view"
    assert memory.read(0x10, 4) == b"view"


def test_view_stays_in_one_region(memory):
    """A view cannot cross; iovec can."""
    with pytest.raises(PartialBuffer, match="only 0x1 of 0x2 bytes"):
        memory.view(0xFFF, 2)
    assert len(memory.view(0, 0x1000)) == 0x1000


def test_any_contiguous_buffer_is_bytes(memory):
    """Sizes are counted in bytes, whatever the items of a buffer are."""
    memory.write(0xFFC, array("I", [1, 2]))
    assert memory.read(0xFFC, 8) == bytes(array("I", [1, 2]))
    target = array("H", [0] * 4)
    memory.read_into(0xFFC, target)
    assert target.tobytes() == memory.read(0xFFC, 8)
    with pytest.raises(BufferError):
        memory.write(0, memoryview(b"abcd")[::2])


def test_overlapping_copy_within_the_guest(memory):
    """Writing a view of guest memory onto itself behaves like memmove."""
    memory.write(0x100, bytes(range(64)))
    memory.write(0x108, memory.view(0x100, 56))
    assert memory.read(0x100, 64) == bytes(range(8)) + bytes(range(56))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_integers_are_little_endian(memory, size):
    """A store is visible as little-endian bytes, and loads give them back."""
    value = 0xF1E2D3C4B5A69788 & ((1 << 8 * size) - 1)
    for address in (0x40, 0x1000 - size, 0x1000, TOP - size):
        memory.store(address, value, size)
        assert memory.read(address, size) == value.to_bytes(size, "little")
        assert memory.load(address, size) == value


def test_integers_must_be_aligned(memory):
    """Also across a border, where a split access would not be one access."""
    for size in (2, 4, 8):
        with pytest.raises(MisalignedAccess, match=f"0xfff is not aligned to an integer of {size}"):
            memory.load(0xFFF, size)
        with pytest.raises(MisalignedAccess):
            memory.store(0x41, 0, size)


def test_integers_do_not_reach_beyond_an_odd_end():
    """A region's odd tail holds bytes, but no wide integer."""
    with GuestMemory.from_ranges([(0, 0x1003)]) as memory:
        memory.store(0x1002, 5, 1)
        assert memory.load(0x1000, 2) == 0
        for address, size in [(0x1002, 2), (0x1000, 4), (0x1000, 8)]:
            with pytest.raises(PartialBuffer):
                memory.load(address, size)


def test_integer_width_and_value_are_checked(memory):
    """Sizes are 1, 2, 4, 8; values are unsigned and fit."""
    for size in (0, 3, 16):
        with pytest.raises(ValueError, match=f"an integer has 1, 2, 4 or 8 bytes, not {size}"):
            memory.load(0, size)
    for value, size in [(-1, 8), (1 << 64, 8), (256, 1)]:
        with pytest.raises(ValueError, match=f"is no unsigned integer of {size} bytes"):
            memory.store(0, value, size)


def test_overlap_is_refused():
    """One shared address is one too many; adjacency is none."""
    with pytest.raises(
        MemoryRegionOverlap, match="region 0xfff-0x1ffe overlaps 0x0-0xfff"
    ) as caught:
        GuestMemory.from_ranges([(0xFFF, 0x1000), (0, 0x1000)])
    assert (caught.value.start, caught.value.other_start) == (0xFFF, 0)
    GuestMemory.from_ranges([(0x1000, 0x1000), (0, 0x1000)]).close()


def test_insert_gives_a_new_map_that_shares_regions(memory):
    """The old map stays as it was; both see the same bytes."""
    added = GuestRegion.anonymous(0x2000, 0x1000)
    larger = memory.insert(added)
    memory.write(0, b"shared")
    assert larger.read(0, 6) == b"shared"
    assert larger.check_range(0, 0x4000)
    assert not memory.check_range(0, 0x4000)
    assert larger.generation != memory.generation
    with pytest.raises(MemoryRegionOverlap):
        larger.insert(added)
    added.close()


def test_remove_gives_a_new_map_and_the_region(memory):
    """The region comes back open; only its exact range names it."""
    for start, size in [(0, 0x2000), (0x10, 0x1000), (0x2000, 0x1000)]:
        with pytest.raises(NoSuchRegion, match=f"no region of {size:#x} bytes at {start:#x}"):
            memory.remove(start, size)
    smaller, removed = memory.remove(0x1000, 0x1000)
    assert removed.start_addr == 0x1000
    assert not removed.closed
    assert not smaller.check_range(0x1000, 1)
    assert memory.check_range(0x1000, 1)


def test_empty_map_holds_nothing():
    """A map without regions answers, and has no last address."""
    with GuestMemory() as memory:
        assert memory.find_region(0) is None
        assert memory.regions == ()
        with pytest.raises(InvalidGuestAddress):
            memory.read(0, 1)
        with pytest.raises(NoSuchRegion):
            _ = memory.last_addr


def test_guest_mistakes_have_one_base():
    """A VMM catches GuestAccessError alone."""
    assert issubclass(InvalidGuestAddress, GuestAccessError)
    assert issubclass(PartialBuffer, GuestAccessError)
    assert issubclass(MisalignedAccess, GuestAccessError)
    assert issubclass(GuestAccessError, VmMemoryError)
    assert not issubclass(MemoryRegionOverlap, GuestAccessError)


class Index:
    """A number that only has __index__."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


def test_whatever_is_an_index_is_a_number(memory):
    """Addresses and sizes, right and wrong ones, with the errors that integers get."""
    memory.write(Index(0x10), b"index")
    assert memory.read(Index(0x10), Index(5)) == b"index"
    assert memory.load(Index(0x10), Index(1)) == ord("i")
    with pytest.raises(InvalidGuestAddress, match="no guest memory at 0x2000"):
        memory.read(Index(0x2000), Index(4))
    with pytest.raises(InvalidGuestAddress, match=f"no guest memory at {TOP:#x}"):
        memory.read(Index(TOP), 4)
    with pytest.raises(ValueError, match="a size cannot be negative, as -1 is"):
        memory.read(0, Index(-1))
    with pytest.raises(PartialBuffer):
        memory.read(0, Index(TOP))
    for call in (lambda: memory.read(0.0, 4), lambda: memory.read(0, "4"), lambda: memory.load(0)):
        with pytest.raises(TypeError):
            call()


def test_reachable_is_up_to_the_first_hole(memory):
    """The number behind check_range."""
    for address, size, reached in [
        (0, 0x5000, 0x2000),
        (0x1FFF, 2, 1),
        (0x2000, 1, 0),
        (TOP - 2, 5, 2),
        (TOP, 1, 0),
        (-1, 1, 0),
        (0x10, 0, 0),
    ]:
        assert memory.reachable(address, size) == reached


def test_a_closed_region_is_no_hole(memory):
    """An access that comes to it is a ValueError, also on its way from another region."""
    memory.regions[1].close()
    for access in (
        lambda: memory.read(0xFFE, 4),
        lambda: memory.write(0xFFE, b"four"),
        lambda: memory.iovec(0xFFE, 4),
        lambda: memory.check_range(0xFFE, 4),
    ):
        with pytest.raises(ValueError, match="<GuestRegion 0x1000-0x1fff> is closed"):
            access()
    assert memory.read(0xFFE, 2) == b"fo"  # as far as a write comes


def test_an_empty_view_is_like_any_other(memory):
    """Writable unless asked otherwise; nothing is borrowed."""
    assert not memory.view(0x2000, 0).readonly
    assert memory.view(0x2000, 0, writable=False).readonly
