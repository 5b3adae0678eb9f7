# ruff: noqa: N818 - the names say what happened, as those of rust-vmm's vm-allocator do
"""Why an allocation or a release was refused.

::

    AllocatorError
    ├── RequestError (ValueError)     a request that no state of the allocator could serve
    │   ├── InvalidRange              start after end, negative, or beyond 2^64 - 1
    │   │   └── InvalidIdRange        the same of identifiers
    │   ├── InvalidSize               nothing, or less, was asked for
    │   ├── InvalidAlignment          not a power of two up to 2^64
    │   ├── UnalignedAddress          an exact address off the alignment asked for
    │   ├── OutOfRange                outside of what this allocator manages
    │   │   └── IdOutOfRange          the same of an identifier
    │   ├── ReservedOwner             a device by the name of guest memory
    │   └── InvalidState              no record that `save` can have made
    ├── ResourceNotAvailable          correct, but taken
    │   ├── NoFreeRange               no gap takes the size at that alignment
    │   ├── Overlap                   the exact range meets one that is in use
    │   ├── NoFreeId                  every identifier is in use
    │   └── IdInUse                   the exact identifier is in use
    └── FreeError                     a release of what is not held; nothing was released
        ├── NotAllocated              no part of the range is in use (a double free, too)
        ├── PartialFree               the range is not exactly one allocated range
        ├── NotMmio                   memory, or outside of the windows for MMIO
        ├── NeverAllocated            the identifier was never handed out
        └── AlreadyReleased           the identifier was handed out and given back

Addresses, sizes and alignments are printed in hexadecimal, identifiers in decimal.

What is no number, no `Range` or no name at all is a `TypeError`, as everywhere in Python.

A call that raises has changed nothing.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vm_allocator.ranges import Allocation, Range


def _span(start: int, end: int) -> str:
    """The numbers as a range is printed; with a sign, a second dash would be one too many."""
    return f"{start:#x} to {end:#x}" if start < 0 or end < 0 else f"{start:#x}-{end:#x}"


class AllocatorError(Exception):
    """Base of every error of this package."""


class RequestError(AllocatorError, ValueError):
    """The request is wrong in itself."""


class InvalidRange(RequestError):
    """No range of addresses or identifiers: `start` to `end`, both inclusive."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.start = start
        self.end = end

    def __str__(self) -> str:
        return (
            f"{_span(self.start, self.end)} is no range: it must not start after its end, "
            "below 0, or end beyond 2^64 - 1"
        )


class InvalidIdRange(InvalidRange):
    """There can be no identifiers from `start` to `end`."""

    def __str__(self) -> str:
        return (
            f"there are no identifiers from {self.start} to {self.end}: the first must not be "
            "below 0 or above the last, nor the last above 2^64 - 1"
        )


class InvalidSize(RequestError):
    """A range of `size` units cannot be allocated."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        return f"cannot allocate {self.size:#x} addresses; the size must be at least 1"


class InvalidAlignment(RequestError):
    """`alignment` is not a power of two up to 2^64."""

    def __init__(self, alignment: int) -> None:
        super().__init__(alignment)
        self.alignment = alignment

    def __str__(self) -> str:
        return f"an alignment is a power of two up to 2^64, which {self.alignment:#x} is not"


class UnalignedAddress(RequestError):
    """The exact `address` asked for is not a multiple of `alignment`."""

    def __init__(self, address: int, alignment: int) -> None:
        super().__init__(address, alignment)
        self.address = address
        self.alignment = alignment

    def __str__(self) -> str:
        return f"{self.address:#x} is not a multiple of the alignment {self.alignment:#x}"


class OutOfRange(RequestError):
    """`start` to `end` does not lie in `space`, the range that may be used."""

    def __init__(self, start: int, end: int, space: Range) -> None:
        super().__init__(start, end, space)
        self.start = start
        self.end = end
        self.space = space

    def __str__(self) -> str:
        return f"{_span(self.start, self.end)} is not inside {self.space}"


class IdOutOfRange(OutOfRange):
    """The identifier `start`, which is `end`, too, is none of those in `space`."""

    def __str__(self) -> str:
        return f"identifier {self.start} is not between {self.space.start} and {self.space.end}"


class ReservedOwner(RequestError):
    """`owner` is the name of guest memory, which no device can have."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner

    def __str__(self) -> str:
        return f"no device can be named {self.owner!r}, as guest memory is"


class InvalidState(RequestError):
    """`found`, in a record for `restore`, is not what `expected` describes."""

    def __init__(self, found: object, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"the saved state is invalid: {reprlib.repr(self.found)} is not {self.expected}"


class ResourceNotAvailable(AllocatorError):
    """The request is correct, but what it needs is in use."""


class NoFreeRange(ResourceNotAvailable):
    """No gap of `space` takes `size` addresses at `alignment`.

    Attributes:
        gap: the widest one there is; None if `space` is full.
        obstacle: what is in use beside that gap, or where `space` begins; None if nothing is.
    """

    def __init__(
        self,
        size: int,
        alignment: int,
        space: Range,
        gap: Range | None,
        obstacle: Allocation | None,
    ) -> None:
        super().__init__(size, alignment, space, gap, obstacle)
        self.size = size
        self.alignment = alignment
        self.space = space
        self.gap = gap
        self.obstacle = obstacle

    def __str__(self) -> str:
        largest = f"{self.gap.size:#x}, {self.gap}" if self.gap else "0x0"
        beside = f", beside {self.obstacle}" if self.obstacle else ""
        return (
            f"no room for {self.size:#x} addresses aligned to {self.alignment:#x} in "
            f"{self.space}: the largest gap has {largest}{beside}"
        )


class Overlap(ResourceNotAvailable):
    """The exact range `requested` meets `obstacle`, the lowest allocation in its way."""

    def __init__(self, requested: Range, obstacle: Allocation) -> None:
        super().__init__(requested, obstacle)
        self.requested = requested
        self.obstacle = obstacle

    def __str__(self) -> str:
        return f"{self.requested} overlaps {self.obstacle}"


class NoFreeId(ResourceNotAvailable):
    """Every identifier from `base` to `end` is in use."""

    def __init__(self, base: int, end: int) -> None:
        super().__init__(base, end)
        self.base = base
        self.end = end

    def __str__(self) -> str:
        return f"every identifier from {self.base} to {self.end} is in use"


class IdInUse(ResourceNotAvailable):
    """The identifier `id` is in use."""

    def __init__(self, id: int) -> None:  # noqa: A002 - the word of the field
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"identifier {self.id} is already in use"


class FreeError(AllocatorError):
    """What was to be released is not held; nothing was released."""


class NotAllocated(FreeError):
    """No part of `range` is in use: it was released before, or never allocated.

    Attributes:
        nearest: what is in use nearest to it; None if nothing is.
    """

    def __init__(self, range: Range, nearest: Allocation | None) -> None:  # noqa: A002
        super().__init__(range, nearest)
        self.range = range
        self.nearest = nearest

    def __str__(self) -> str:
        hint = f"the nearest in use is {self.nearest}" if self.nearest else "nothing is in use"
        return f"{self.range} is not allocated; {hint}"


class PartialFree(FreeError):
    """`range` touches `allocation` but is not exactly it."""

    def __init__(self, range: Range, allocation: Allocation) -> None:  # noqa: A002
        super().__init__(range, allocation)
        self.range = range
        self.allocation = allocation

    def __str__(self) -> str:
        return f"{self.range} is not an allocated range; it touches {self.allocation}"


class NotMmio(FreeError):
    """`range` cannot be MMIO that was handed out.

    Attributes:
        memory: the guest memory that it is or touches; None if it is outside of every window.
    """

    def __init__(self, range: Range, memory: Allocation | None) -> None:  # noqa: A002
        super().__init__(range, memory)
        self.range = range
        self.memory = memory

    def __str__(self) -> str:
        why = f"it touches {self.memory}" if self.memory else "it is outside of the windows for it"
        return f"{self.range} is not MMIO: {why}"


class NeverAllocated(FreeError):
    """The identifier `id` was never handed out."""

    def __init__(self, id: int) -> None:  # noqa: A002 - the word of the field
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"identifier {self.id} was never allocated"


class AlreadyReleased(FreeError):
    """The identifier `id` was handed out and has been given back since."""

    def __init__(self, id: int) -> None:  # noqa: A002 - the word of the field
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"identifier {self.id} was already released"
