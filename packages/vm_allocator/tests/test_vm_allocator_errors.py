"""The twelve errors of rust-vmm's vm-allocator, by its names, and what they are here."""

from __future__ import annotations

import pytest

from vm_allocator import (
    AddressAllocator,
    AllocatorError,
    AlreadyReleased,
    ExactMatch,
    IdAllocator,
    IdOutOfRange,
    InvalidAlignment,
    InvalidIdRange,
    InvalidRange,
    InvalidSize,
    NeverAllocated,
    NoFreeId,
    NoFreeRange,
    OutOfRange,
    Overlap,
    PartialFree,
    Range,
    UnalignedAddress,
)

SERIAL = Range(0x20, 0x2F)


@pytest.fixture
def space():
    """64 addresses, of which a serial port has 16."""
    space = AddressAllocator(0, 0x40)
    space.reserve(SERIAL, "COM1")
    return space


@pytest.fixture
def ids():
    """Two identifiers, of which the first was in use."""
    ids = IdAllocator(0, 1)
    ids.free(ids.allocate())
    return ids


def exhaust(ids):
    return [ids.allocate() for _ in range(3)]


CASES = {
    "Overflow": (
        lambda _space, _ids: Range.sized(2**64 - 1, 2),
        InvalidRange,
        "0xffffffffffffffff-0x10000000000000000 is no range",
    ),
    "Underflow": (lambda _space, _ids: Range(-1, 1), InvalidRange, "-0x1 to 0x1 is no range"),
    "OutOfRange": (
        lambda space, _ids: space.allocate(2, policy=ExactMatch(0x3F)),
        OutOfRange,
        "0x3f-0x40 is not inside 0x0-0x3f",
    ),
    "AlreadyReleased": (
        lambda _space, ids: ids.free(0),
        AlreadyReleased,
        "identifier 0 was already released",
    ),
    "NeverAllocated": (
        lambda _space, ids: ids.free(1),
        NeverAllocated,
        "identifier 1 was never allocated",
    ),
    "ResourceNotAvailable, addresses": (
        lambda space, _ids: space.allocate(0x21, 2),
        NoFreeRange,
        "no room for 0x21 addresses aligned to 0x2 in 0x0-0x3f: the largest gap has 0x20, 0x0-0x1f",
    ),
    "ResourceNotAvailable, identifiers": (
        lambda _space, ids: exhaust(ids),
        NoFreeId,
        "every identifier from 0 to 1 is in use",
    ),
    "OutOfRange, below 0": (
        lambda space, _ids: space.allocate(1, policy=ExactMatch(-4)),
        OutOfRange,
        "-0x4 to -0x4 is not inside 0x0-0x3f",
    ),
    "OutOfRange, identifiers": (
        lambda _space, ids: ids.reserve(12),
        IdOutOfRange,
        "identifier 12 is not between 0 and 1",
    ),
    "InvalidRange": (lambda _space, _ids: Range(2, 1), InvalidRange, "0x2-0x1 is no range"),
    "InvalidRange, identifiers": (
        lambda _space, _ids: IdAllocator(12, 11),
        InvalidIdRange,
        "there are no identifiers from 12 to 11: ",
    ),
    "InvalidAlignment": (
        lambda space, _ids: space.allocate(1, 3),
        InvalidAlignment,
        "an alignment is a power of two up to 2^64, which 0x3 is not",
    ),
    "InvalidSize": (lambda space, _ids: space.allocate(0), InvalidSize, "cannot allocate 0x0"),
    "Overlap": (
        lambda space, _ids: space.reserve(Range(0x1F, 0x20)),
        Overlap,
        "0x1f-0x20 overlaps 0x20-0x2f (COM1)",
    ),
    "InvalidStateTransition": (
        lambda space, _ids: space.free(Range(0x20, 0x27)),
        PartialFree,
        "0x20-0x27 is not an allocated range; it touches 0x20-0x2f (COM1)",
    ),
    "UnalignedAddress": (
        lambda space, _ids: space.allocate(1, 4, ExactMatch(2)),
        UnalignedAddress,
        "0x2 is not a multiple of the alignment 0x4",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES.keys())
def test_error_names_the_request_and_the_obstacle(space, ids, call, error, message):
    """One type and one sentence per case; and the space is as it was."""
    before = space.save()
    with pytest.raises(AllocatorError) as caught:
        call(space, ids)
    assert type(caught.value) is error
    assert str(caught.value).startswith(message)
    assert space.save() == before
