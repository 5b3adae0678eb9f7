"""The ordered map of ranges in use, as two parallel sorted lists.

`AddressAllocator` asks nothing else of its engine than the methods here, and each answer is
determined by the set of ranges alone; so an engine with better complexity can take its place
without a visible difference. This one: find O(log n), insert and remove O(n) as one memmove,
`first_fit` and `last_fit` O(n).

It trusts its caller: ranges do not overlap, starts exist, windows are not empty.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm_allocator.ranges import Allocation


class SortedMap:
    """Non-overlapping allocations in address order."""

    __slots__ = ("_allocations", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._allocations: list[Allocation] = []

    def __len__(self) -> int:
        return len(self._allocations)

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self._allocations)

    def insert(self, allocation: Allocation) -> None:
        """Add an allocation whose addresses are free."""
        start = allocation.range.start
        index = bisect_left(self._starts, start)
        self._starts.insert(index, start)
        self._allocations.insert(index, allocation)

    def remove(self, start: int) -> None:
        """Remove the allocation that starts at `start`."""
        index = bisect_left(self._starts, start)
        del self._starts[index]
        del self._allocations[index]

    def first_overlap(self, start: int, end: int) -> Allocation | None:
        """The lowest allocation that has an address in [start, end]."""
        index = bisect_right(self._starts, start)
        if index and self._allocations[index - 1].range.end >= start:
            return self._allocations[index - 1]
        if index < len(self._starts) and self._starts[index] <= end:
            return self._allocations[index]
        return None

    def gaps(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """The free (start, end) pieces of [low, high], both ends inclusive, upward."""
        cursor = low
        index = max(bisect_right(self._starts, low) - 1, 0)
        while index < len(self._starts) and self._starts[index] <= high:
            if self._starts[index] > cursor:
                yield cursor, self._starts[index] - 1
            cursor = max(cursor, self._allocations[index].range.end + 1)
            index += 1
        if cursor <= high:
            yield cursor, high

    def first_fit(self, size: int, alignment: int, low: int, high: int) -> int | None:
        """The lowest multiple of `alignment` where `size` addresses in [low, high] are free."""
        for start, end in self.gaps(low, high):
            aligned = (start + alignment - 1) & -alignment
            if aligned + size - 1 <= end:
                return aligned
        return None

    def last_fit(self, size: int, alignment: int, low: int, high: int) -> int | None:
        """The highest multiple of `alignment` where `size` addresses in [low, high] are free."""
        for start, end in reversed(tuple(self.gaps(low, high))):
            aligned = (end - size + 1) & -alignment
            if aligned >= start:
                return aligned
        return None

    def largest_gap(self, low: int, high: int) -> int:
        """The size of the widest free piece of [low, high]; 0 if there is none."""
        return max((end - start + 1 for start, end in self.gaps(low, high)), default=0)
