"""What is no whole number, no range or no name is refused before anything changes."""

from __future__ import annotations

import copy
import math
import pickle

import pytest

from vm_allocator import (
    AddressAllocator,
    BestFit,
    ExactMatch,
    FirstMatch,
    GsiAllocator,
    IdAllocator,
    InvalidAlignment,
    LastMatch,
    Range,
    SystemAllocator,
)

NUMBERS = [0.5, 1.0, math.nan, "1", None]


class Index:
    """A whole number of another library, as numpy's are."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.fixture
def space():
    """Sixteen addresses of which best fit has taken and given back one."""
    space = AddressAllocator(0, 16)
    space.reserve(Range(4, 5), "device")
    space.free(space.allocate(1, policy=BestFit))
    return space


@pytest.mark.parametrize("wrong", NUMBERS)
def test_only_whole_numbers_are_addresses(space, wrong):
    """Floats, even whole ones, text and None end in TypeError, and the space is as it was."""
    before = space.save()
    calls = [
        lambda: space.allocate(wrong),
        lambda: space.allocate(1, wrong),
        lambda: space.allocate(1, policy=ExactMatch(wrong)),
        lambda: space.find(wrong),
        lambda: Range(wrong, 16),
        lambda: Range(0, wrong),
        lambda: Range.sized(wrong, 1),
        lambda: Range.sized(0, wrong),
        lambda: AddressAllocator(wrong, 1),
        lambda: AddressAllocator(0, wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            call()
    assert space.save() == before
    assert space.allocate(8, policy=BestFit) == Range(6, 13)


@pytest.mark.parametrize("wrong", NUMBERS)
def test_only_whole_numbers_are_identifiers(wrong):
    """The same of identifiers and interrupt lines."""
    ids, gsis = IdAllocator(0, 7), GsiAllocator()
    ids.reserve(1)
    gsis.reserve(5)
    before = ids.save(), gsis.save()
    calls = [
        lambda: ids.reserve(wrong),
        lambda: ids.free(wrong),
        lambda: ids.is_allocated(wrong),
        lambda: gsis.reserve(wrong),
        lambda: gsis.free(wrong),
        lambda: IdAllocator(wrong, 7),
        lambda: IdAllocator(0, wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            call()
    assert (ids.save(), gsis.save()) == before


def test_whole_numbers_of_other_libraries_are_welcome(space):
    """What has `__index__` counts as its number and is kept as a plain int."""
    taken = space.allocate(Index(2), Index(2), ExactMatch(Index(8)))
    assert taken == Range(Index(8), Index(9)) == Range.sized(Index(8), Index(2))
    assert space.find(Index(9)).range == taken
    ids = IdAllocator(Index(3), Index(7))
    ids.reserve(Index(3))
    assert ids.is_allocated(Index(3))
    ids.free(Index(3))
    for number in (taken.start, taken.end, ids.base, ids.end, ids.allocate()):
        assert type(number) is int


def test_a_pair_is_no_range(space):
    """One sentence instead of an attribute that a tuple has not."""
    calls = [
        lambda: space.free((0, 1)),
        lambda: space.reserve((0, 1)),
        lambda: space.allocate(1, within=(0, 1)),
        lambda: SystemAllocator([], platform_mmio=(0, 1), pci_mmio32=(0, 1), pci_mmio64=(0, 1)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"^\(0, 1\) is no Range$"):
            call()


def test_an_owner_has_a_name(space):
    """Text; what is not would not come back from a record."""
    with pytest.raises(TypeError, match=r"^7 is no owner's name$"):
        space.allocate(1, owner=7)
    assert space.find(0) is None


def test_an_alignment_is_at_most_the_whole_space():
    """2^64 is a multiple of which only address 0 is; a larger one is refused."""
    space = AddressAllocator(0, 1 << 64)
    assert space.allocate(1, 1 << 64) == Range(0, 0)
    with pytest.raises(InvalidAlignment, match="up to 2\\^64, which 0x20000000000000000 is not"):
        space.allocate(1, 1 << 65)


@pytest.mark.parametrize("policy", [FirstMatch, LastMatch, BestFit])
def test_a_policy_survives_a_copy(policy):
    """A configuration that holds one may be copied and pickled."""
    copies = [copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))]  # noqa: S301 - our own
    assert all(one is policy for one in copies)


def test_an_exact_match_is_a_value():
    """Equality, hash and pickle see the address, which does not change."""
    exact = ExactMatch(0x10)
    assert exact == copy.deepcopy(exact) == pickle.loads(pickle.dumps(exact))  # noqa: S301 - our own
    assert exact != ExactMatch(0x11)
    assert exact != 0x10
    assert {exact, ExactMatch(0x10)} == {exact}
    with pytest.raises(AttributeError):
        exact.address = 0
