"""What is in use of an address space, and what is free between.

A B-tree keyed by the first address of each range in use. The free addresses behind a range
belong to its entry, and those before the first range to the tree's head: to take or to give back
a range changes one leaf, or two. A second tree holds the free pieces by size; it is made by the
first `best_fit`, because it more than doubles the cost of every change.

It trusts its caller: what is taken is free, addresses and windows are inside the space. A `tail`
is the address behind a range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm_allocator._btree import HEAD, Tree
from vm_allocator.ranges import LAST_ADDRESS, Allocation, Range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm_allocator._btree import Difference, Fit, Leaf, Piece


class AddressMap:
    """Ranges in use, of a space that is free at first.

    Attributes:
        available: how many addresses are free.
        count: how many ranges are in use.
    """

    __slots__ = ("_by_size", "_owners", "_space", "_tree", "available", "count")

    def __init__(self, space: Range) -> None:
        self._space = space
        self._tree = Tree(space.start, space.size)
        self._by_size: _PiecesBySize | None = None
        self._owners: dict[int, str] = {}
        self.available = space.size
        self.count = 0

    def take(self, start: int, tail: int, owner: str) -> None:
        """Put a range into the free piece around it."""

        def cut(leaf: Leaf, index: int) -> Difference:
            low, gap = leaf.lows[index], leaf.gaps[index]
            before, behind = start - low, low + gap - tail
            leaf.gaps[index] = before
            leaf.insert(index + 1, start, tail, behind)
            return gap, max(before, behind)

        self._tree.edit(start, cut)
        self.available -= tail - start
        self.count += 1
        if owner:
            self._owners[start] = owner
        if self._by_size is not None:
            low, before = self._piece(start - 1)
            _, behind = self._piece(start)
            self._by_size.remove(low, tail + behind - low)
            self._by_size.add(low, before)
            self._by_size.add(tail, behind)

    def give_back(self, start: int, tail: int) -> bool:
        """Remove exactly this range; False, and no change, if it is not one in use."""

        def remove(leaf: Leaf, index: int) -> Difference | None:
            if leaf.keys[index] != start or leaf.lows[index] != tail:
                return None
            gap = leaf.gaps[index]
            leaf.delete(index)
            if not index:
                return gap, 0
            leaf.gaps[index - 1] += tail - start + gap
            return gap, leaf.gaps[index - 1]

        def grow(leaf: Leaf, index: int) -> Difference:
            leaf.gaps[index] += tail - start + went
            return 0, leaf.gaps[index]

        difference = self._tree.edit(start, remove)
        if difference is None:
            return False
        went, came = difference
        if not came:  # it was the first of its leaf: the entry before it is in another
            self._tree.edit(start, grow)
        self.available += tail - start
        self.count -= 1
        self._owners.pop(start, None)
        if self._by_size is not None:
            low, gap = self._piece(start)
            self._by_size.remove(low, start - low)
            self._by_size.remove(tail, low + gap - tail)
            self._by_size.add(low, gap)
        return True

    def last_up_to(self, address: int) -> Allocation | None:
        """The last range in use that starts at or before `address`."""
        leaf, index = self._tree.floor(address)
        start = leaf.keys[index]
        return None if start == HEAD else self._allocation(start, leaf.lows[index])

    def first_overlap(self, start: int, end: int) -> Allocation | None:
        """The lowest range in use that has an address in [start, end]."""
        before = self.last_up_to(start)
        if before is not None and before.range.end >= start:
            return before
        return self.first_from(start, end)

    def first_from(self, start: int, end: int) -> Allocation | None:
        """The first range in use that starts behind the piece around `start`, up to `end`."""
        low, gap = self._piece(start)
        return self.last_up_to(low + gap) if low + gap <= end else None

    def first_fit(self, size: int, alignment: int, window: Range) -> int | None:
        """The lowest multiple of `alignment` where `size` addresses of the window are free."""
        first, tail, key = window.start, window.end + 1, HEAD
        if window is not self._space:  # of the piece around the border only a part counts
            leaf, index = self._tree.floor(first)
            low = leaf.lows[index]
            start = (max(low, first) + alignment - 1) & -alignment
            if start + size <= min(low + leaf.gaps[index], tail):
                return start
            key = leaf.keys[index] + 1
        found = self._tree.seek(key, 1, size, (alignment, 0, LAST_ADDRESS + 1))
        if found is None:
            return None
        start = (found[0] + alignment - 1) & -alignment
        return start if start + size <= tail else None

    def last_fit(self, size: int, alignment: int, window: Range) -> int | None:
        """The highest multiple of `alignment` where `size` addresses of the window are free."""
        first, tail, key = window.start, window.end + 1, window.end
        if window is not self._space:
            leaf, index = self._tree.floor(key)
            low = leaf.lows[index]
            start = (min(low + leaf.gaps[index], tail) - size) & -alignment
            if start >= max(low, first):
                return start
            key = leaf.keys[index] - 1
        found = self._tree.seek(key, -1, size, (alignment, 0, LAST_ADDRESS + 1))
        if found is None:
            return None
        start = (found[0] + found[1] - size) & -alignment
        return start if start >= first else None

    def best_fit(self, size: int, alignment: int, window: Range) -> int | None:
        """The lowest place in the smallest, then lowest, free piece that has one in the window."""
        if self._by_size is None:
            self._by_size = _PiecesBySize()
            for low, gap in self.pieces():
                self._by_size.add(low, gap)
        best = self._by_size.best(size, (alignment, window.start, window.end + 1))
        return None if best is None else (max(best, window.start) + alignment - 1) & -alignment

    def widest(self, window: Range) -> Range | None:
        """The largest, then lowest, free part of the window."""
        size = self._tree.widest(window.start, window.end + 1)
        start = self.first_fit(size, 1, window) if size > 0 else None
        return None if start is None else Range(start, start + size - 1)

    def pieces(self) -> Iterator[Piece]:
        """All free pieces in address order."""
        return ((low, gap) for _, low, gap in self._tree.entries() if gap)

    def allocations(self) -> Iterator[Allocation]:
        """Everything in use in address order."""
        entries = self._tree.entries()
        next(entries)  # the head
        return (self._allocation(start, tail) for start, tail, _ in entries)

    def _piece(self, address: int) -> Piece:
        """The free piece behind the last range that starts at or before `address`."""
        leaf, index = self._tree.floor(address)
        return leaf.lows[index], leaf.gaps[index]

    def _allocation(self, start: int, tail: int) -> Allocation:
        return Allocation(Range(start, tail - 1), self._owners.get(start, ""))


class _PiecesBySize:
    """Free pieces in order of size, then address."""

    __slots__ = ("_tree",)

    def __init__(self) -> None:
        self._tree = Tree(0, 0)

    def add(self, low: int, gap: int) -> None:
        """Add a piece, unless it is empty."""
        key = gap << 64 | low

        def insert(leaf: Leaf, index: int) -> Difference:
            leaf.insert(index + 1, key, low, gap)
            return 0, gap

        if gap:
            self._tree.edit(key, insert)

    def remove(self, low: int, gap: int) -> None:
        """Remove a piece, unless it is empty."""

        def delete(leaf: Leaf, index: int) -> Difference:
            leaf.delete(index)
            return gap, 0

        if gap:
            self._tree.edit(gap << 64 | low, delete)

    def best(self, size: int, fit: Fit) -> int | None:
        """Where the smallest piece with `size` usable addresses begins."""
        found = self._tree.seek(size << 64, 1, size, fit)
        return None if found is None else found[0]
