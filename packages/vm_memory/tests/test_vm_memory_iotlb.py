"""Iotlb against a dictionary that has an entry for every mapped byte."""

from __future__ import annotations

import doctest
import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vm_memory import GuestAccessError, MapError, iotlb
from vm_memory.iotlb import Iotlb, Permissions
from vm_memory.translation_errors import CannotResolve, InvalidMapping

TOP = 2**64
NO, READ, WRITE = Permissions.NO, Permissions.READ, Permissions.WRITE
READ_WRITE = Permissions.READ_WRITE
RIGHTS = [NO, READ, WRITE, READ_WRITE]


def test_examples_are_true():
    """The docstring's example runs."""
    result = doctest.testmod(iotlb)
    assert result.attempted > 4
    assert result.failed == 0


def test_permissions_combine():
    """The numbers are those of rust-vmm and of vhost's IOTLB messages."""
    assert [int(one) for one in RIGHTS] == [0, 1, 2, 3]
    assert READ | WRITE == READ_WRITE
    assert READ_WRITE & WRITE == WRITE


def test_a_new_mapping_replaces_what_it_covers():
    """Also in the middle of another, whose two ends stay as they were."""
    table = Iotlb()
    table.set_mapping(0x1000, 0x10000, 0x3000, READ_WRITE)
    table.set_mapping(0x2000, 0x90000, 0x1000, READ)
    assert len(table) == 3
    assert table.lookup(0x1000, 0x3000, READ) == [
        (0x10000, 0x1000),
        (0x90000, 0x1000),
        (0x12000, 0x1000),
    ]
    table.invalidate_all()
    assert len(table) == 0


def test_neighbours_in_both_spaces_are_one_piece():
    """Page by page or at once: an access cannot tell, whatever else the pages permit."""
    table = Iotlb()
    for page in (2, 0, 1):
        table.set_mapping(page << 12, 0x80000 + (page << 12), 0x1000, READ | page)
    table.set_mapping(0x3000, 0x10000, 0x1000, READ)
    assert table.lookup(0x800, 0x3000, READ) == [(0x80800, 0x2800), (0x10000, 0x800)]


def test_an_access_beside_a_mapping_has_nothing_to_do_with_it():
    """Not the one that ends where it begins, nor the one that begins where it ends."""
    table = Iotlb()
    table.set_mapping(0x1000, 0x50000, 0x1000, NO)
    table.set_mapping(0x2000, 0x80000, 0x1000, READ)
    table.set_mapping(0x3000, 0x50000, 0x1000, NO)
    assert table.lookup(0x2000, 0x1000, READ) == [(0x80000, 0x1000)]
    table.invalidate_mapping(0x2000, 0x1000)
    assert len(table) == 2
    with pytest.raises(CannotResolve) as caught:
        table.lookup(0x2000, 0x1000, READ)
    assert (caught.value.misses, caught.value.failures) == (((0x2000, 0x1000),), ())


def test_misses_and_failures_are_told_apart():
    """Every part that is wrong, in order, adjacent ones joined; and how far the access gets."""
    table = Iotlb()
    table.set_mapping(0x1000, 0, 0x1000, READ_WRITE)
    table.set_mapping(0x3000, 0, 0x1000, READ)
    table.set_mapping(0x4000, 0, 0x1000, NO)
    table.set_mapping(0x6000, 0, 0x1000, WRITE)
    with pytest.raises(CannotResolve) as caught:
        table.lookup(0x1800, 0x6000, WRITE)
    error = caught.value
    assert (error.address, error.size, error.access) == (0x1800, 0x6000, WRITE)
    assert error.misses == ((0x2000, 0x1000), (0x5000, 0x1000), (0x7000, 0x800))
    assert error.failures == ((0x3000, 0x2000),)
    assert error.resolved == 0x800
    assert isinstance(error, GuestAccessError)
    assert str(error) == (
        "no writing of 0x6000 bytes at I/O address 0x1800: 0x2000-0x2fff (and 2 more) is not "
        "mapped and 0x3000-0x4fff does not permit it"
    )
    with pytest.raises(CannotResolve, match="no reading of 0x1 bytes at I/O address 0x6000: 0x6"):
        table.lookup(0x6000, 1, READ)


def test_the_ends_of_the_address_space():
    """The last byte can be mapped; nothing wraps around behind it."""
    table = Iotlb()
    table.set_mapping(0, 0, TOP, READ)
    assert table.lookup(0, TOP, READ) == [(0, TOP)]
    table.invalidate_mapping(1, TOP - 2)
    assert len(table) == 2
    table.set_mapping(TOP - 4, TOP - 4, 4, READ)
    assert table.lookup(TOP - 4, 4, READ) == [(TOP - 4, 4)]
    with pytest.raises(CannotResolve) as caught:
        table.lookup(TOP - 4, 5, READ)
    assert caught.value.misses == ((TOP, 1),)
    table.invalidate_mapping(TOP - 1, TOP)
    assert table.lookup(TOP - 4, 3, READ) == [(TOP - 4, 3)]


@pytest.mark.parametrize(
    ("iova", "gpa", "size"),
    [(TOP - 1, 0, 2), (0, TOP - 1, 2), (-1, 0, 2), (0, -1, 2), (0, 0, -1), (TOP + 1, 0, 0)],
)
def test_mappings_outside_of_the_address_space_are_refused(iova, gpa, size):
    """On either side; nothing has changed then."""
    table = Iotlb()
    with pytest.raises(InvalidMapping, match="range is not below 2\\^64") as caught:
        table.set_mapping(iova, gpa, size, READ)
    assert (caught.value.iova, caught.value.gpa, caught.value.size) == (iova, gpa, size)
    assert isinstance(caught.value, MapError)
    assert len(table) == 0


def test_zero_bytes_are_nothing_everywhere():
    """No piece, no mapping, no cut, no error: inside of a mapping and out, up to 2^64."""
    table = Iotlb()
    table.set_mapping(0x1000, 0, 0x1000, READ)
    for address in (0, 0x1000, 0x1800, 0x2000, TOP):
        table.set_mapping(address, 0, 0, READ_WRITE)
        table.invalidate_mapping(address, 0)
        assert table.lookup(address, 0, READ_WRITE) == []
    assert len(table) == 1


def test_sizes_are_not_negative():
    """The caller's mistake, as everywhere in this package."""
    table = Iotlb()
    for call in (table.invalidate_mapping, lambda iova, size: table.lookup(iova, size, READ)):
        with pytest.raises(ValueError, match="negative, as -1 is"):
            call(0x1000, -1)


BASES = st.sampled_from([0, 0x1000, TOP - 48])
near = st.builds(lambda base, delta: base + delta, BASES, st.integers(0, 48))
sizes = st.integers(0, 24)
permissions = st.sampled_from(RIGHTS)


class IotlbModel(RuleBasedStateMachine):
    """Ranges of a few bytes, at both ends of the address space and in between."""

    @initialize()
    def start(self):
        self.table = Iotlb()
        self.model = {}

    @rule(iova=near, gpa=near, size=sizes, rights=permissions)
    def map(self, iova, gpa, size, rights):
        if max(iova, gpa) + size > TOP:
            with pytest.raises(InvalidMapping):
                self.table.set_mapping(iova, gpa, size, rights)
        else:
            self.table.set_mapping(iova, gpa, size, rights)
            self.model.update({iova + n: (gpa + n, rights) for n in range(size)})

    @rule(iova=near, size=sizes)
    def invalidate(self, iova, size):
        self.table.invalidate_mapping(iova, size)
        for n in range(size):
            self.model.pop(iova + n, None)

    @rule()
    def forget(self):
        self.table.invalidate_all()
        self.model.clear()

    @rule(iova=near, size=sizes, access=permissions)
    def look(self, iova, size, access):
        wanted = range(iova, iova + size)
        misses = [n for n in wanted if n not in self.model]
        failures = [n for n in wanted if n in self.model and access & ~self.model[n][1]]
        if misses or failures:
            with pytest.raises(CannotResolve) as caught:
                self.table.lookup(iova, size, access)
            assert all(size > 0 for _, size in caught.value.misses + caught.value.failures)
            assert spread(caught.value.misses) == misses
            assert spread(caught.value.failures) == failures
            assert caught.value.resolved == min(misses + failures) - iova
        else:
            pieces = self.table.lookup(iova, size, access)
            assert all(length > 0 for _, length in pieces)
            assert spread(pieces) == [self.model[n][0] for n in wanted]
            assert all(a[0] + a[1] != b[0] for a, b in itertools.pairwise(pieces))

    @invariant()
    def mappings_do_not_overlap(self):
        starts, mappings = self.table._map
        assert starts == sorted(set(starts)) == [mapping[0] for mapping in mappings]
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(mappings))
        assert sum(end - start for start, end, _gpa, _rights in mappings) == len(self.model)


def spread(ranges):
    """Every address of some (address, size) ranges."""
    return [start + n for start, size in ranges for n in range(size)]


TestIotlbModel = IotlbModel.TestCase
TestIotlbModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_numbers_and_rights_are_checked():
    """Only integers are addresses, and only the four rights there are."""
    iotlb = Iotlb()
    with pytest.raises(TypeError):
        iotlb.set_mapping(0.5, 0, 1, Permissions.READ)
    with pytest.raises(ValueError, match="are no permissions"):
        iotlb.set_mapping(0, 0, 1, 7)
    assert len(iotlb) == 0
