"""An address space of which pieces are in use.

Knows addresses, sizes and owners' names; does not know what the pieces are for.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from vm_allocator import _records
from vm_allocator._address_map import AddressMap
from vm_allocator.errors import (
    FreeError,
    InvalidAlignment,
    InvalidSize,
    NoFreeRange,
    NotAllocated,
    OutOfRange,
    Overlap,
    PartialFree,
    UnalignedAddress,
)
from vm_allocator.policy import BestFit, ExactMatch, FirstMatch, LastMatch
from vm_allocator.ranges import Range, check_range, printed
from vm_allocator.states import AddressState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from vm_allocator.policy import Policy
    from vm_allocator.ranges import Allocation

#: Only address 0 is a multiple of it.
LARGEST_ALIGNMENT = 1 << 64


class AddressAllocator:
    """The `size` addresses from `base` on; any part of the 64-bit space, or all of it.

    Not safe to use from two threads at once: the owner of the allocator locks.

    Raises:
        InvalidSize: `size` is less than 1.
        InvalidRange: the space does not fit into 0..2^64 - 1.
        TypeError: one of them is no whole number.
    """

    __slots__ = ("_map", "_space")

    def __init__(self, base: int, size: int) -> None:
        self._space = Range.sized(base, size)
        self._map = AddressMap(self._space)

    @property
    def space(self) -> Range:
        """All addresses that this allocator manages."""
        return self._space

    @property
    def base(self) -> int:
        """The first address of the space."""
        return self._space.start

    @property
    def end(self) -> int:
        """The last address of the space."""
        return self._space.end

    @property
    def available(self) -> int:
        """How many addresses are free."""
        return self._map.available

    def allocate(
        self,
        size: int,
        alignment: int = 1,
        policy: Policy = FirstMatch,
        *,
        owner: str = "",
        within: Range | None = None,
    ) -> Range:
        """Take `size` free addresses.

        Args:
            size: how many.
            alignment: a power of two, up to 2^64, that divides the first address.
            policy: `FirstMatch`, `LastMatch`, `BestFit`, or ``ExactMatch(address)``.
            owner: a name for messages and listings.
            within: take no address outside of this window; None: the whole space.

        Raises:
            InvalidSize, InvalidAlignment: as they say.
            UnalignedAddress: the exact address is not a multiple of `alignment`.
            OutOfRange: the exact range, or the window, is not inside the space (or window).
            Overlap: part of the exact range is in use.
            NoFreeRange: no free place is large enough.
            TypeError: an argument is of another type.
        """
        size, alignment = index(size), index(alignment)
        if size < 1:
            raise InvalidSize(size)
        if not 1 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise InvalidAlignment(alignment)
        if not isinstance(owner, str):
            raise TypeError(f"{owner!r} is no owner's name")
        window = self._space if within is None else self._window(within)
        start = self._place(size, alignment, policy, window)
        if start is None:
            raise self._no_free_range(size, alignment, window)
        self._map.take(start, start + size, owner)
        return Range(start, start + size - 1)

    def reserve(self, range: Range, owner: str = "") -> None:  # noqa: A002 - the plain word
        """Take exactly `range`; `free` gives it back as any other.

        Raises:
            OutOfRange: it is not inside the space.
            Overlap: part of it is in use.
            TypeError: an argument is of another type.
        """
        check_range(range)
        self.allocate(range.size, policy=ExactMatch(range.start), owner=owner)

    def free(self, range: Range) -> None:  # noqa: A002 - the plain word
        """Give back `range`, which must be exactly one that was taken.

        Raises:
            OutOfRange: it is not inside the space.
            NotAllocated: no part of it is in use.
            PartialFree: it touches a range in use without being it; nothing is released.
            TypeError: it is no `Range`.
        """
        check_range(range)
        if not self._map.give_back(range.start, range.end + 1):
            raise self._not_a_range_in_use(range)

    def find(self, address: int) -> Allocation | None:
        """What is in use at `address`, or None; raises TypeError for no number."""
        address = index(address)
        if not self.base <= address <= self.end:
            return None
        return self._map.first_overlap(address, address)

    def used(self) -> tuple[Allocation, ...]:
        """Everything in use, in address order."""
        return tuple(self._map.allocations())

    def free_ranges(self) -> tuple[Range, ...]:
        """Everything free, in address order, adjacent pieces as one."""
        return tuple(Range.sized(low, gap) for low, gap in self._map.pieces())

    def save(self) -> AddressState:
        """All there is to know, for `restore`."""
        used = tuple((one.range.start, one.range.end, one.owner) for one in self)
        return AddressState(self.base, self.end, used)

    @classmethod
    def restore(cls, state: AddressState) -> Self:
        """An allocator equal to the one that was saved.

        Raises:
            InvalidState: `state` has not the form of a record.
            InvalidRange: the space, or a range in use, is none.
            OutOfRange: a range in use is not inside the space.
            Overlap: two ranges in use share an address.
        """
        base, end, used = _records.address_state(state)
        allocator = cls(base, Range(base, end).size)
        for start, last, owner in used:
            allocator.reserve(Range(start, last), owner)
        return allocator

    def _window(self, within: Range) -> Range:
        if not self._space.contains(check_range(within)):
            raise OutOfRange(within.start, within.end, self._space)
        return within

    def _place(self, size: int, alignment: int, policy: Policy, window: Range) -> int | None:
        if policy is FirstMatch:
            return self._map.first_fit(size, alignment, window)
        if policy is LastMatch:
            return self._map.last_fit(size, alignment, window)
        if policy is BestFit:
            return self._map.best_fit(size, alignment, window)
        if isinstance(policy, ExactMatch):
            return self._exact(policy.address, size, alignment, window)
        raise TypeError(f"{policy!r} is no allocation policy")

    def _exact(self, address: int, size: int, alignment: int, window: Range) -> int:
        if address % alignment:
            raise UnalignedAddress(address, alignment)
        end = address + size - 1
        if address < window.start or end > window.end:
            raise OutOfRange(address, end, window)
        obstacle = self._map.first_overlap(address, end)
        if obstacle is not None:
            raise Overlap(Range(address, end), obstacle)
        return address

    def _no_free_range(self, size: int, alignment: int, window: Range) -> NoFreeRange:
        gap = self._map.widest(window)
        obstacle = None
        if gap is None:
            obstacle = self.find(window.start)
        elif gap.end < window.end:
            obstacle = self.find(gap.end + 1)
        elif gap.start > window.start:
            obstacle = self.find(gap.start - 1)
        return NoFreeRange(size, alignment, window, gap, obstacle)

    def _not_a_range_in_use(self, range: Range) -> OutOfRange | FreeError:  # noqa: A002
        if not self._space.contains(range):
            return OutOfRange(range.start, range.end, self._space)
        found = self._map.first_overlap(range.start, range.end)
        if found is not None:
            return PartialFree(range, found)
        before = self._map.last_up_to(range.start)
        behind = self._map.first_from(range.start, self.end)
        if before is None or behind is None:
            return NotAllocated(range, before or behind)
        is_nearer = behind.range.start - range.end < range.start - before.range.end
        return NotAllocated(range, behind if is_nearer else before)

    def __iter__(self) -> Iterator[Allocation]:
        """Everything in use as of now, in address order."""
        return iter(self.used())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AddressAllocator):
            return NotImplemented
        return self.save() == other.save()

    __hash__ = None  # type: ignore[assignment] # changes, so it cannot be a key

    def __copy__(self) -> Self:
        """An allocator of its own with the same ranges in use."""
        return self.restore(self.save())

    def __repr__(self) -> str:
        return f"<AddressAllocator {self._space}: {self._map.count} in use>"

    def __str__(self) -> str:
        """The space as a listing, one line per piece."""
        pieces = [(one.range, printed(one.owner) if one.owner else "(in use)") for one in self]
        pieces += [(free, "(free)") for free in self.free_ranges()]
        pieces.sort(key=lambda piece: piece[0].start)
        return "\n".join(f"{range_}  {text}" for range_, text in pieces)
