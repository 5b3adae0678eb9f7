"""Records: what comes back from them, what is refused, and copies made through them."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm_allocator import (
    AddressAllocator,
    AllocatorError,
    GsiAllocator,
    IdAllocator,
    InvalidState,
    Range,
    RequestError,
    SystemAllocator,
)


def make_system():
    """A system with something of everything in use."""
    system = SystemAllocator(
        [(0, 0x1000)],
        platform_mmio=Range(0x1_0000, 0x1_FFFF),
        pci_mmio32=Range(0x2_0000, 0x2_FFFF),
        pci_mmio64=Range(0x3_0000, 0x3_FFFF),
    )
    system.allocate_platform_mmio(0x1000, owner="virtio-blk")
    system.allocate_pci_mmio32(0x1000, owner="BAR 0")
    system.allocate_pio(8, owner="COM1")
    system.gsis.allocate_msi()
    system.gsis.free(system.gsis.allocate_pin())
    return system


def as_json(record):
    """The record as it comes back from a file."""
    return json.loads(json.dumps(record))


ADDRESSES = [0, 15, [[0, 3, "a"], [8, 9, ""]]]
IDS = [0, 7, [1, 3], [2]]
GSIS = as_json(GsiAllocator().save())
SYSTEM = as_json(make_system().save())
RECORDS = [
    (AddressAllocator, ADDRESSES),
    (IdAllocator, IDS),
    (GsiAllocator, GSIS),
    (SystemAllocator, SYSTEM),
]
KINDS = [kind for kind, _ in RECORDS]


def but(record, value, *path):
    """The record with another value at one place."""
    changed = copy.deepcopy(record)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return changed


@pytest.mark.parametrize(("kind", "record"), RECORDS)
def test_a_record_comes_back_as_it_was(kind, record):
    """What is restored saves the same again."""
    assert as_json(kind.restore(record).save()) == record


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [None, 5, "", "0123", [], {}, [0, 15], [0, 15, None], [[]] * 7])
def test_garbage_is_no_record(kind, garbage):
    """One typed error, whatever it is."""
    with pytest.raises(InvalidState, match=r"^the saved state is invalid: ") as caught:
        kind.restore(garbage)
    assert isinstance(caught.value, RequestError)


@pytest.mark.parametrize(
    ("kind", "record", "message"),
    [
        (AddressAllocator, ["0", "15", []], "'0' is not a whole number"),
        (AddressAllocator, [0, 15.0, []], "15.0 is not a whole number"),
        (AddressAllocator, [False, 15, []], "False is not a whole number"),
        (AddressAllocator, [0, 15, [[0, 3]]], r"\[0, 3\] is not a range in use, which has 3"),
        (AddressAllocator, [0, 15, [[None, None, None]]], "None is not a whole number"),
        (AddressAllocator, but(ADDRESSES, None, 2, 0, 2), "None is not an owner's name"),
        (AddressAllocator, but(ADDRESSES, 7, 2, 0, 2), "7 is not an owner's name"),
        (AddressAllocator, but(ADDRESSES, ["l"], 2, 0, 2), r"\['l'\] is not an owner's name"),
        (AddressAllocator, [0, 15, ADDRESSES[2][::-1]], "is not in order"),
        (IdAllocator, [0, 7, ["1"], []], "'1' is not a whole number"),
        (IdAllocator, [0, 7, [], None], "None is not a list"),
        (IdAllocator, [0, 7, [2, 1], []], "is not in order"),
        (GsiAllocator, but(GSIS, None, 1), "None is not the state of identifiers"),
        (GsiAllocator, but(GSIS, 25, -1, 0), "25 is not the first GSI behind the pins, 24"),
        (GsiAllocator, but(GSIS, 1, 0, 0), "1 is not the first pin of all, 0"),
        (GsiAllocator, but(GSIS, 6, 1, 0), "6 is not the first pin behind the legacy ones"),
        (GsiAllocator, but(GSIS, None, 0), "5 is not the first pin behind the legacy ones"),
        (SystemAllocator, but(SYSTEM, None, 2), "None is not the state of interrupt lines"),
        (SystemAllocator, but(SYSTEM, [0], 3), r"\[0\] is not a window, which has 2 fields"),
        (SystemAllocator, but(SYSTEM, [0x2_0001], 6), "is not the first addresses of BARs in use"),
        (SystemAllocator, but(SYSTEM, [0], 6), "is not the first addresses of BARs in use"),
        (SystemAllocator, but(SYSTEM, [0x1_0000], 6), "is not the first addresses of BARs in use"),
        (SystemAllocator, but(SYSTEM, 0x1FFFF, 1, 1), "'0x0-0x1ffff' is not the space 0x0-0xffff"),
        (SystemAllocator, but(SYSTEM, 2**63, 0, 1), "is not the space 0x0-0xffffffffffffffff"),
    ],
)
def test_what_cannot_have_been_saved_is_no_record(kind, record, message):
    """Wrong types, wrong order, and spaces that no system has."""
    with pytest.raises(InvalidState, match=message):
        kind.restore(record)


scalars = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-2, 40), st.text(max_size=3))
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner)
)


def places(record, path=()):
    """The path of every value in a record."""
    if isinstance(record, list):
        for index, value in enumerate(record):
            yield (*path, index)
            yield from places(value, (*path, index))


@given(data=st.data())
@pytest.mark.parametrize(("kind", "record"), RECORDS)
def test_any_json_is_restored_or_refused(kind, record, data):
    """Either what is restored saves that very record again, or the error is one of ours."""
    place = data.draw(st.sampled_from(list(places(record))))
    given_record = data.draw(
        st.one_of(anything, anything.map(lambda one: but(record, one, *place)))
    )
    try:
        restored = kind.restore(given_record)
    except AllocatorError:
        return
    assert as_json(restored.save()) == given_record


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize(("kind", "record"), RECORDS)
def test_a_copy_goes_its_own_way(kind, record, duplicate):
    """Equal at first; what happens to one does not happen to the other."""
    original = kind.restore(record)
    change = {
        AddressAllocator: lambda one: one.allocate(1),
        IdAllocator: lambda one: one.free(1),
        GsiAllocator: lambda one: one.reserve(7),
        SystemAllocator: lambda one: one.gsis.pins.reserve(7),
    }[kind]
    copied = duplicate(original)
    assert copied == original
    change(copied)
    assert copied != original
    assert as_json(original.save()) == record
