"""Small numbers, each handed out to one owner at a time."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from vm_allocator.errors import (
    AlreadyReleased,
    IdInUse,
    NeverAllocated,
    NoFreeId,
    OutOfRange,
)
from vm_allocator.ranges import Range
from vm_allocator.states import IdState

if TYPE_CHECKING:
    from typing import Self


class IdAllocator:
    """The identifiers from `base` to `end`, both inclusive; the lowest free one comes first.

    Not safe to use from two threads at once: the owner of the allocator locks.

    Raises:
        InvalidRange: `base` is after `end`, or one of them is not in 0..2^64 - 1.
    """

    # Every identifier below `_next` has been handed out: it is in `_used`, or in the heap
    # `_released`. From `_next` on, `reserve` may have handed out some: they are in `_used`, or in
    # `_released_early`.
    __slots__ = ("_next", "_range", "_released", "_released_early", "_used")

    def __init__(self, base: int, end: int) -> None:
        self._range = Range(base, end)
        self._next = base
        self._used: set[int] = set()
        self._released: list[int] = []
        self._released_early: set[int] = set()

    @property
    def base(self) -> int:
        """The lowest identifier."""
        return self._range.start

    @property
    def end(self) -> int:
        """The highest identifier."""
        return self._range.end

    @property
    def available(self) -> int:
        """How many identifiers are free."""
        return self._range.size - len(self._used)

    def allocate(self) -> int:
        """Hand out the lowest identifier that is free.

        Raises:
            NoFreeId: all are in use.
        """
        lowest = heappop(self._released) if self._released else self._fresh()
        self._used.add(lowest)
        return lowest

    def _fresh(self) -> int:
        """Move `_next` past the lowest identifier from there on that is free."""
        while self._next in self._used:
            self._next += 1
        fresh = self._next
        if fresh > self.end:
            raise NoFreeId(self.base, self.end)
        self._released_early.discard(fresh)
        self._next = fresh + 1
        return fresh

    def reserve(self, id: int) -> None:  # noqa: A002 - the plain word
        """Hand out exactly `id`; takes time in proportion to the released ones below it.

        Raises:
            OutOfRange: it is not between `base` and `end`.
            IdInUse: it is in use.
        """
        self._check(id)
        if id in self._used:
            raise IdInUse(id)
        if id < self._next:
            self._released.remove(id)
            heapify(self._released)
        self._released_early.discard(id)
        self._used.add(id)

    def free(self, id: int) -> None:  # noqa: A002 - the plain word
        """Take `id` back.

        Raises:
            OutOfRange: it is not between `base` and `end`.
            NeverAllocated: it was never handed out.
            AlreadyReleased: it was handed out and has been taken back since.
        """
        if id not in self._used:
            raise self._not_in_use(id)
        self._used.remove(id)
        if id < self._next:
            heappush(self._released, id)
        else:
            self._released_early.add(id)

    def _not_in_use(self, id: int) -> NeverAllocated | AlreadyReleased:  # noqa: A002
        self._check(id)
        if id < self._next or id in self._released_early:
            return AlreadyReleased(id)
        return NeverAllocated(id)

    def is_allocated(self, id: int) -> bool:  # noqa: A002 - the plain word
        """Whether `id` is in use."""
        return id in self._used

    def _check(self, id: int) -> None:  # noqa: A002 - the plain word
        if not self.base <= id <= self.end:
            raise OutOfRange(id, id, self._range)

    def used(self) -> tuple[int, ...]:
        """All identifiers in use, in order."""
        return tuple(sorted(self._used))

    def save(self) -> IdState:
        """All there is to know, for `restore`."""
        released = sorted([*self._released, *self._released_early])
        return IdState(self.base, self.end, self.used(), tuple(released))

    @classmethod
    def restore(cls, state: IdState) -> Self:
        """An allocator equal to the one that was saved.

        Raises:
            InvalidRange: `base` is after `end`, or one of them is not in 0..2^64 - 1.
            OutOfRange: an identifier is not between them.
            IdInUse: one is there twice, or both in use and released.
        """
        base, end, used, released = state
        allocator = cls(base, end)
        for id_ in (*used, *released):
            allocator.reserve(id_)
        for id_ in released:
            allocator.free(id_)
        return allocator

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdAllocator):
            return NotImplemented
        return self.save() == other.save()

    __hash__ = None  # type: ignore[assignment] # changes, so it cannot be a key

    def __repr__(self) -> str:
        return f"<IdAllocator {self.base}-{self.end}: {len(self._used)} in use>"
