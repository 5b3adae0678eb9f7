"""An address space of which pieces are in use.

Knows addresses, sizes and owners' names; does not know what the pieces are for.
"""

from __future__ import annotations

from vm_allocator._sorted_map import SortedMap
from vm_allocator.errors import (
    InvalidAlignment,
    InvalidSize,
    NoFreeRange,
    NotAllocated,
    OutOfRange,
    Overlap,
    PartialFree,
    UnalignedAddress,
)
from vm_allocator.policy import ExactMatch, FirstMatch, LastMatch
from vm_allocator.ranges import Allocation, Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vm_allocator.policy import Policy


class AddressAllocator:
    """The `size` addresses from `base` on; any part of the 64-bit space, or all of it.

    Not safe to change from two threads at once: the owner of the allocator locks.

    Raises:
        InvalidSize: `size` is less than 1.
        InvalidRange: the space does not fit into 0..2^64 - 1.
    """

    __slots__ = ("_map", "_space")

    def __init__(self, base: int, size: int) -> None:
        self._space = Range.sized(base, size)
        self._map = SortedMap()

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
            alignment: a power of two that divides the first address.
            policy: `FirstMatch`, `LastMatch`, or ``ExactMatch(address)``.
            owner: a name for messages and listings.
            within: take no address outside of this window; None: the whole space.

        Raises:
            InvalidSize, InvalidAlignment: as they say.
            UnalignedAddress: the exact address is not a multiple of `alignment`.
            OutOfRange: the exact range, or the window, is not inside the space (or window).
            Overlap: part of the exact range is in use.
            NoFreeRange: no free place is large enough.
        """
        if size < 1:
            raise InvalidSize(size)
        if alignment < 1 or alignment & (alignment - 1):
            raise InvalidAlignment(alignment)
        window = self._window(within)
        start = self._place(size, alignment, policy, window)
        if start is None:
            largest = self._map.largest_gap(window.start, window.end)
            raise NoFreeRange(size, alignment, window, largest)
        taken = Range(start, start + size - 1)
        self._map.insert(Allocation(taken, owner))
        return taken

    def reserve(self, range: Range, owner: str = "") -> None:  # noqa: A002 - the plain word
        """Take exactly `range`; `free` gives it back as any other.

        Raises:
            OutOfRange: it is not inside the space.
            Overlap: part of it is in use.
        """
        self.allocate(range.size, policy=ExactMatch(range.start), owner=owner)

    def free(self, range: Range) -> None:  # noqa: A002 - the plain word
        """Give back `range`, which must be exactly one that was taken.

        Raises:
            OutOfRange: it is not inside the space.
            NotAllocated: no part of it is in use.
            PartialFree: it touches a range in use without being it; nothing is released.
        """
        if not self._space.contains(range):
            raise OutOfRange(range.start, range.end, self._space)
        found = self._map.first_overlap(range.start, range.end)
        if found is None:
            raise NotAllocated(range)
        if found.range != range:
            raise PartialFree(range, found)
        self._map.remove(range.start)

    def find(self, address: int) -> Allocation | None:
        """What is in use at `address`, or None."""
        return self._map.first_overlap(address, address)

    def used(self) -> tuple[Allocation, ...]:
        """Everything in use, in address order."""
        return tuple(self._map)

    def free_ranges(self) -> tuple[Range, ...]:
        """Everything free, in address order, adjacent pieces as one."""
        return tuple(Range(start, end) for start, end in self._map.gaps(self.base, self.end))

    @property
    def available(self) -> int:
        """How many addresses are free."""
        return self._space.size - sum(allocation.range.size for allocation in self._map)

    def _window(self, within: Range | None) -> Range:
        if within is None:
            return self._space
        if not self._space.contains(within):
            raise OutOfRange(within.start, within.end, self._space)
        return within

    def _place(self, size: int, alignment: int, policy: Policy, window: Range) -> int | None:
        if policy is FirstMatch:
            return self._map.first_fit(size, alignment, window.start, window.end)
        if policy is LastMatch:
            return self._map.last_fit(size, alignment, window.start, window.end)
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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AddressAllocator):
            return NotImplemented
        return self._space == other._space and self.used() == other.used()

    __hash__ = None  # type: ignore[assignment] # changes, so it cannot be a key

    def __repr__(self) -> str:
        return f"<AddressAllocator {self._space}: {len(self._map)} in use>"

    def __str__(self) -> str:
        """The space as a listing, one line per piece."""
        pieces = [(used.range.start, str(used.range), used.owner) for used in self._map]
        pieces += [(free.start, str(free), "(free)") for free in self.free_ranges()]
        return "\n".join(f"{text}  {owner}".rstrip() for _, text, owner in sorted(pieces))
