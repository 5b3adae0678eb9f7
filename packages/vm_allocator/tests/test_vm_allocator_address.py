"""AddressAllocator: each rule by example; the model test has the rest."""

from __future__ import annotations

import copy
import json

import pytest

from vm_allocator import (
    AddressAllocator,
    AddressState,
    Allocation,
    AllocatorError,
    BestFit,
    ExactMatch,
    FirstMatch,
    InvalidAlignment,
    InvalidRange,
    InvalidSize,
    LastMatch,
    NoFreeRange,
    NotAllocated,
    OutOfRange,
    Overlap,
    PartialFree,
    Range,
    UnalignedAddress,
)

LAST = 2**64 - 1


def test_default_is_the_lowest_free_address():
    """Without policy or alignment the lowest free place is taken, gaps first."""
    space = AddressAllocator(0x1000, 0x1000)
    assert space.allocate(0x10) == Range(0x1000, 0x100F)
    assert space.allocate(0x10) == Range(0x1010, 0x101F)
    space.free(Range(0x1000, 0x100F))
    assert space.allocate(8) == Range(0x1000, 0x1007)


def test_last_match_packs_downward():
    """cloud-hypervisor's documented example: (0x1000, 0x10000) gives 0x10e00, then 0x10d00."""
    space = AddressAllocator(0x1000, 0x10000)
    assert space.allocate(0x110, 0x100, LastMatch).start == 0x10E00
    assert space.allocate(0x100, 0x100, LastMatch).start == 0x10D00


def test_best_fit_takes_the_smallest_free_range():
    """The smallest that has an aligned place, of equals the lowest; alignment may rule one out."""
    space = AddressAllocator(0, 0x1000)
    for used in (
        Range(0x100, 0x10F),
        Range(0x148, 0x14F),
        Range(0x180, 0x1FF),
        Range(0x241, 0x2FF),
    ):
        space.reserve(used)
    assert space.allocate(0x30, policy=BestFit) == Range(0x150, 0x17F)
    assert space.allocate(0x30, 0x40, BestFit) == Range(0x200, 0x22F)
    assert space.allocate(0x30, policy=BestFit) == Range(0x110, 0x13F)
    assert space.allocate(0x30, policy=BestFit) == Range(0, 0x2F)


def test_best_fit_keeps_up_with_what_others_take_and_free():
    """Its order of free ranges follows every change, whichever policy made it."""
    space = AddressAllocator(0, 0x100)
    low = space.allocate(0x10, policy=BestFit)
    space.reserve(Range(0x20, 0x2F))
    assert space.allocate(0x10, policy=BestFit) == Range(0x10, 0x1F)
    space.free(low)
    assert space.allocate(8, policy=BestFit) == Range(0, 7)
    space.free(Range(0x10, 0x1F))
    assert space.allocate(0x10, policy=BestFit) == Range(8, 0x17)


def test_alignment_is_of_the_address_not_of_the_offset():
    """An unaligned base does not shift what aligned means."""
    space = AddressAllocator(0x1001, 0x3FFF)
    assert space.allocate(0x10, 0x1000).start == 0x2000
    assert space.allocate(0x10, 0x1000, LastMatch).start == 0x4000


def test_alignment_larger_than_the_gap_finds_nothing():
    """No aligned address in the space: refused, with the widest gap in the message."""
    space = AddressAllocator(0x1001, 0x100)
    for policy in (FirstMatch, LastMatch, BestFit):
        with pytest.raises(NoFreeRange, match=r"gap has 0x100, 0x1001-0x1100$") as caught:
            space.allocate(1, 0x1000, policy)
        assert (caught.value.size, caught.value.alignment) == (1, 0x1000)


def test_whole_64_bit_space_is_allocatable_and_freeable():
    """A range of 2^64 addresses is a range like any other."""
    space = AddressAllocator(0, 2**64)
    everything = space.allocate(2**64)
    assert everything == Range(0, LAST)
    assert space.available == 0
    with pytest.raises(NoFreeRange, match="gap has 0x0, beside 0x0-0xffffffffffffffff"):
        space.allocate(1)
    space.free(everything)
    assert space.available == 2**64


@pytest.mark.parametrize("address", [0, 1, LAST - 1, LAST])
def test_single_addresses_at_the_ends(address):
    """The anchor fails on sizes of 1 at the ends and leaks what starts at 1 or ends at 2^64-2."""
    space = AddressAllocator(0, 2**64)
    taken = space.allocate(1, policy=ExactMatch(address))
    assert taken == Range(address, address)
    space.free(taken)
    assert space.free_ranges() == (Range(0, LAST),)


def test_freed_single_addresses_merge():
    """The anchor never joins freed one-byte neighbours and refuses allocate(4) afterwards."""
    space = AddressAllocator(0x100, 4)
    for taken in [space.allocate(1) for _ in range(4)]:
        space.free(taken)
    assert space.allocate(4) == Range(0x100, 0x103)


@pytest.mark.parametrize(("start", "size"), [(0x2000, 0x100), (0x2800, 0x100), (0x1FFF, 2)])
def test_exact_match_inside_an_allocation_overlaps(start, size):
    """The anchor hands out a part of an allocated range a second time."""
    space = AddressAllocator(0, 0x10000)
    space.reserve(Range(0x2000, 0x2FFF), "BAR 0")
    with pytest.raises(Overlap, match=r"overlaps 0x2000-0x2fff \(BAR 0\)") as caught:
        space.allocate(size, policy=ExactMatch(start))
    assert caught.value.obstacle == Allocation(Range(0x2000, 0x2FFF), "BAR 0")


def test_exact_match_fills_a_hole_exactly():
    """Touching neighbours is not overlapping."""
    space = AddressAllocator(0, 0x30)
    space.reserve(Range(0, 0xF))
    space.reserve(Range(0x20, 0x2F))
    assert space.allocate(0x10, 0x10, ExactMatch(0x10)) == Range(0x10, 0x1F)
    assert space.available == 0


def test_exact_match_outside_the_space():
    """The exact range must lie in the space as a whole."""
    space = AddressAllocator(0x1000, 0x1000)
    for address in (0, 0xFFF, 0x1FFF, 0x2000):
        with pytest.raises(OutOfRange, match="is not inside 0x1000-0x1fff"):
            space.allocate(2, policy=ExactMatch(address))


def test_exact_match_is_never_rounded():
    """An address off the alignment is an error, not a neighbouring place."""
    with pytest.raises(UnalignedAddress, match="0x1004 is not a multiple of the alignment 0x1000"):
        AddressAllocator(0, 0x10000).allocate(0x10, 0x1000, ExactMatch(0x1004))


@pytest.mark.parametrize("size", [0, -1])
def test_size_must_be_positive(size):
    """Nothing cannot be allocated."""
    with pytest.raises(InvalidSize, match=f"cannot allocate {size:#x} addresses"):
        AddressAllocator(0, 16).allocate(size)
    with pytest.raises(InvalidSize):
        AddressAllocator(0, size)


@pytest.mark.parametrize("alignment", [0, -1, 3, 0x1001])
def test_alignment_must_be_a_power_of_two(alignment):
    """Everything else is refused, zero too."""
    with pytest.raises(InvalidAlignment, match=f"which {alignment:#x} is not"):
        AddressAllocator(0, 16).allocate(1, alignment)


@pytest.mark.parametrize(("base", "size"), [(1, 2**64), (LAST, 2), (-1, 2), (0, 2**64 + 1)])
def test_space_must_fit_into_64_bits(base, size):
    """A space beyond 2^64 is refused when it is made."""
    with pytest.raises(InvalidRange, match="is no range"):
        AddressAllocator(base, size)


def test_window_limits_every_policy():
    """`within` bounds first, last and exact match alike, and must be inside the space."""
    space = AddressAllocator(0, 0x1000)
    window = Range(0x100, 0x1FF)
    assert space.allocate(0x10, within=window).start == 0x100
    assert space.allocate(0x10, policy=LastMatch, within=window).end == 0x1FF
    for address in (0xF8, 0x1F8, 0x200):
        with pytest.raises(OutOfRange, match="is not inside 0x100-0x1ff"):
            space.allocate(0x10, policy=ExactMatch(address), within=window)
    gap = r"the largest gap has 0xe0, 0x110-0x1ef, beside 0x1f0-0x1ff$"
    with pytest.raises(NoFreeRange, match=f"in 0x100-0x1ff: {gap}"):
        space.allocate(0x100, within=window)
    with pytest.raises(OutOfRange, match="0xff0-0x100f is not inside 0x0-0xfff"):
        space.allocate(1, within=Range(0xFF0, 0x100F))


@pytest.mark.parametrize(
    ("start", "end"),
    [(0x100, 0x10F), (0x110, 0x11F), (0xFF, 0x11F), (0x100, 0x120), (0x100, 0x13F)],
)
def test_free_is_all_or_nothing(start, end):
    """A part of a range, more than a range, or two at once: refused, and nothing is released."""
    space = AddressAllocator(0, 0x1000)
    space.reserve(Range(0x100, 0x11F), "a")
    space.reserve(Range(0x120, 0x13F), "b")
    before = space.used()
    with pytest.raises(PartialFree, match=r"it touches 0x100-0x11f \(a\)"):
        space.free(Range(start, end))
    assert space.used() == before


def test_double_free_and_foreign_free_are_errors():
    """The anchor answers Ok to both."""
    space = AddressAllocator(0, 0x1000)
    taken = space.allocate(0x10)
    space.free(taken)
    with pytest.raises(NotAllocated, match="0x0-0xf is not allocated; nothing is in use"):
        space.free(taken)
    with pytest.raises(OutOfRange, match="0x1000-0x1000 is not inside 0x0-0xfff"):
        space.free(Range(0x1000, 0x1000))
    space.reserve(Range(0xFF0, 0xFFF))
    with pytest.raises(OutOfRange, match="0xff0-0x1000 is not inside 0x0-0xfff"):
        space.free(Range(0xFF0, 0x1000))


def test_the_nearest_in_use_may_be_the_last_address():
    """The end of the space is as near as any other place."""
    space = AddressAllocator(0, 0x1000)
    space.reserve(Range(0xFFF, 0xFFF), "last")
    with pytest.raises(NotAllocated, match=r"the nearest in use is 0xfff-0xfff \(last\)"):
        space.free(Range(0, 0))


@pytest.mark.parametrize(
    ("start", "nearest"),
    [(0x10, "low"), (0x30, "low"), (0x60, "low"), (0x61, "high"), (0xF0, "high")],
)
def test_a_free_that_misses_names_what_is_near(start, nearest):
    """The nearest range in use, on either side; of two as near, the lower."""
    space = AddressAllocator(0, 0x1000)
    space.reserve(Range(0x20, 0x2F), "low")
    space.reserve(Range(0xA1, 0xAF), "high")
    with pytest.raises(NotAllocated, match=rf"the nearest in use is .*\({nearest}\)"):
        space.free(Range.sized(start, 0x10))


def test_a_refusal_names_what_is_beside_the_largest_gap():
    """What ends the gap, or else what is before it, or what fills the space from its start on."""
    space = AddressAllocator(0, 0x100)
    space.reserve(Range(0x10, 0x1F), "COM1")
    with pytest.raises(NoFreeRange, match=r"0xe0, 0x20-0xff, beside 0x10-0x1f \(COM1\)") as caught:
        space.allocate(0x100)
    assert caught.value.gap == Range(0x20, 0xFF)
    assert caught.value.obstacle == Allocation(Range(0x10, 0x1F), "COM1")
    for window in (Range(0x20, 0x2F), Range(0, 0xF), Range(0x20, 0xFF)):
        with pytest.raises(NoFreeRange) as caught:
            space.allocate(0x101, within=window)
        assert (caught.value.gap, caught.value.obstacle) == (window, None)
    with pytest.raises(NoFreeRange, match=r"in 0x12-0x13: .* has 0x0, beside 0x10-0x1f \(COM1\)"):
        space.allocate(1, within=Range(0x12, 0x13))


def test_find_names_the_owner():
    """`find` answers for every address of a range, both ends included."""
    space = AddressAllocator(0, 0x1000)
    space.allocate(0x10, policy=ExactMatch(0x20), owner="COM1")
    assert [space.find(a) is not None for a in (0x1F, 0x20, 0x2F, 0x30)] == [
        False,
        True,
        True,
        False,
    ]
    found = space.find(0x2F)
    assert found is not None
    assert found.owner == "COM1"


def test_listing_shows_used_and_free_in_order():
    """`str()` is a memory map that a person can read."""
    space = AddressAllocator(0, 0x30)
    space.reserve(Range(0x10, 0x1F), "COM1")
    assert str(space) == "0x0-0xf  (free)\n0x10-0x1f  COM1\n0x20-0x2f  (free)"
    assert repr(space) == "<AddressAllocator 0x0-0x2f: 1 in use>"


def test_a_name_forges_no_line():
    """What would break a line, or look like a remark of ours, is quoted; no name is a remark."""
    space = AddressAllocator(0, 4)
    for owner in ("a\n0x1-0x3  (free)", "(free)", ""):
        space.allocate(1, owner=owner)
    assert str(space).splitlines() == [
        r"0x0-0x0  'a\n0x1-0x3  (free)'",
        "0x1-0x1  '(free)'",
        "0x2-0x2  (in use)",
        "0x3-0x3  (free)",
    ]
    assert str(space.find(0)) == r"0x0-0x0 ('a\n0x1-0x3  (free)')"


def test_a_name_goes_with_its_range():
    """Whoever takes the place afterwards without a name has none."""
    space = AddressAllocator(0, 0x10)
    space.free(space.allocate(4, owner="gone"))
    space.allocate(4)
    assert space.used() == (Allocation(Range(0, 3), ""),)


def test_equality_is_space_and_contents():
    """The order of the calls that led there does not matter."""
    left, right = AddressAllocator(0, 0x30), AddressAllocator(0, 0x30)
    left.reserve(Range(0, 1), "a")
    left.reserve(Range(4, 5), "b")
    right.reserve(Range(4, 5), "b")
    assert left != right
    right.reserve(Range(0, 1), "a")
    assert left == right
    assert left != AddressAllocator(0, 0x31)
    assert left != "left"


def test_save_is_plain_and_restore_brings_it_back():
    """A record of numbers and names, which survives JSON; the copy goes its own way."""
    space = AddressAllocator(0x1000, 0x1000)
    space.reserve(Range(0x1800, 0x180F), "COM1")
    space.allocate(0x10)
    state = space.save()
    assert state == AddressState(0x1000, 0x1FFF, ((0x1000, 0x100F, ""), (0x1800, 0x180F, "COM1")))
    restored = AddressAllocator.restore(json.loads(json.dumps(state)))
    assert restored == space
    duplicate = copy.copy(space)
    duplicate.allocate(1)
    assert (restored == space, duplicate == space) == (True, False)
    assert space.save() == state


@pytest.mark.parametrize(
    ("used", "message"),
    [
        (((0, 15, ""), (8, 23, "b")), r"0x8-0x17 overlaps 0x0-0xf"),
        (((0x100, 0x100, ""),), r"0x100-0x100 is not inside 0x0-0xff"),
        (((5, 4, ""),), r"0x5-0x4 is no range"),
        (((-1, 4, ""),), r"-0x1 to 0x4 is no range"),
    ],
)
def test_restore_trusts_nothing(used, message):
    """A record that no allocator can have saved ends in the error of the call that it implies."""
    with pytest.raises(AllocatorError, match=message):
        AddressAllocator.restore(AddressState(0, 0xFF, used))


def test_a_space_that_ends_before_it_begins_is_no_range():
    """The message names what is in the record, not a size that nobody gave."""
    with pytest.raises(InvalidRange, match=r"^0x5-0x0 is no range"):
        AddressAllocator.restore([5, 0, []])


def test_equal_maps_come_about_in_any_order():
    """What was taken and given back on the way leaves no trace, best fit's own tree included."""
    straight, detour = AddressAllocator(0, 0x1000), AddressAllocator(0, 0x1000)
    straight.reserve(Range(0x100, 0x1FF), "device")
    passing = [detour.allocate(0x40, policy=BestFit) for _ in range(20)]
    for taken in passing:
        detour.free(taken)
    detour.reserve(Range(0x100, 0x1FF), "device")
    assert detour == straight
    for policy in (FirstMatch, LastMatch, BestFit):
        assert detour.allocate(0x30, 0x20, policy) == straight.allocate(0x30, 0x20, policy)


def test_iteration_sees_one_moment():
    """Whoever frees what he iterates over misses nothing."""
    space = AddressAllocator(0, 0x100)
    for _ in range(5):
        space.allocate(0x10, owner="device")
    for allocation in space:
        space.free(allocation.range)
    assert space.used() == ()
    assert space.available == 0x100


def test_policy_must_be_one_of_ours():
    """A wrong policy is named."""
    with pytest.raises(TypeError, match="'first' is no allocation policy"):
        AddressAllocator(0, 16).allocate(1, policy="first")


def test_range_refuses_what_is_no_range():
    """Start after end, negative, beyond 2^64 - 1, or without a size."""
    for start, end in [(2, 1), (-1, 1), (0, 2**64)]:
        with pytest.raises(InvalidRange, match="is no range"):
            Range(start, end)
    with pytest.raises(InvalidSize):
        Range.sized(0, 0)
    with pytest.raises(InvalidRange):
        Range.sized(LAST, 2)


def test_range_is_a_value():
    """Equality, hash, repr and match see start and end."""
    match Range.sized(0x10, 0x10):
        case Range(start, end):
            assert (start, end) == (0x10, 0x1F)
    assert {Range(1, 2), Range(1, 2)} == {Range(1, 2)}
    assert Range(1, 2) != Range(1, 3)
    assert Range(1, 2) != (1, 2)
    assert repr(Range(16, 31)) == "Range(0x10, 0x1f)"
    assert repr(Allocation(Range(16, 31), "x")) == "Allocation(Range(0x10, 0x1f), 'x')"
    assert {Allocation(Range(1, 2))} == {Allocation(Range(1, 2))}
    assert [repr(p) for p in (FirstMatch, LastMatch, BestFit, ExactMatch(16))] == [
        "FirstMatch",
        "LastMatch",
        "BestFit",
        "ExactMatch(0x10)",
    ]


def test_range_overlap_and_containment():
    """Both ends belong to a range."""
    assert Range(0, 4).overlaps(Range(4, 5))
    assert not Range(0, 4).overlaps(Range(5, 6))
    assert Range(0, 4).contains(Range(4, 4))
    assert not Range(0, 4).contains(Range(4, 5))
