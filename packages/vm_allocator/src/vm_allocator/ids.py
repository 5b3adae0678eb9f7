"""Small numbers, each handed out to one owner at a time."""

from __future__ import annotations

from heapq import heappop, heappush
from operator import index
from typing import TYPE_CHECKING

from vm_allocator import _records
from vm_allocator.errors import (
    AlreadyReleased,
    IdInUse,
    IdOutOfRange,
    InvalidIdRange,
    NeverAllocated,
    NoFreeId,
)
from vm_allocator.ranges import LAST_ADDRESS, Range
from vm_allocator.states import IdState

if TYPE_CHECKING:
    from typing import Self


class IdAllocator:
    """The identifiers from `base` to `end`, both inclusive; the lowest free one comes first.

    Not safe to use from two threads at once: the owner of the allocator locks.

    Raises:
        InvalidIdRange: `base` is after `end`, or one of them is not in 0..2^64 - 1.
        TypeError: one of them is no whole number.
    """

    # Every identifier below `_next` has been handed out: it is in `_used`, or in the heap
    # `_released`. From `_next` on, `reserve` may have handed out some: they are in `_used`, or in
    # `_released_early`. What `reserve` takes of the heap stays there, since only the top of a heap
    # can be removed quickly: `_stale` of its entries are too many, and those of identifiers in use.
    __slots__ = ("_next", "_range", "_released", "_released_early", "_stale", "_used")

    def __init__(self, base: int, end: int) -> None:
        base, end = index(base), index(end)
        if not 0 <= base <= end <= LAST_ADDRESS:
            raise InvalidIdRange(base, end)
        self._range = Range(base, end)
        self._next = base
        self._used: set[int] = set()
        self._released: list[int] = []
        self._stale = 0
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
        released, used = self._released, self._used
        while released:
            lowest = heappop(released)
            if lowest not in used:
                break
            self._stale -= 1
        else:
            lowest = self._fresh()
        used.add(lowest)
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
        """Hand out exactly `id`.

        Raises:
            IdOutOfRange: it is not between `base` and `end`.
            IdInUse: it is in use.
            TypeError: it is no whole number.
        """
        id = self._checked(id)  # noqa: A001 - the plain word
        if id in self._used:
            raise IdInUse(id)
        self._used.add(id)
        if id < self._next:
            self._note_stale()
        else:
            self._released_early.discard(id)

    def _note_stale(self) -> None:
        """Count a stale entry of the heap; make it anew when more than half of it is stale."""
        self._stale += 1
        if 2 * self._stale > len(self._released):
            self._released = sorted(set(self._released) - self._used)  # which is a heap
            self._stale = 0

    def free(self, id: int) -> None:  # noqa: A002 - the plain word
        """Take `id` back.

        Raises:
            IdOutOfRange: it is not between `base` and `end`.
            NeverAllocated: it was never handed out.
            AlreadyReleased: it was handed out and has been taken back since.
            TypeError: it is no whole number.
        """
        id = index(id)  # noqa: A001 - the plain word
        if id not in self._used:
            raise self._not_in_use(id)
        self._used.remove(id)
        if id < self._next:
            heappush(self._released, id)
        else:
            self._released_early.add(id)

    def _not_in_use(self, id: int) -> NeverAllocated | AlreadyReleased:  # noqa: A002
        self._checked(id)
        if id < self._next or id in self._released_early:
            return AlreadyReleased(id)
        return NeverAllocated(id)

    def is_allocated(self, id: int) -> bool:  # noqa: A002 - the plain word
        """Whether `id` is in use; raises TypeError for no number."""
        return index(id) in self._used

    def _checked(self, id: int) -> int:  # noqa: A002 - the plain word
        number = index(id)
        if not self.base <= number <= self.end:
            raise IdOutOfRange(number, number, self._range)
        return number

    def used(self) -> tuple[int, ...]:
        """All identifiers in use, in order."""
        return tuple(sorted(self._used))

    def save(self) -> IdState:
        """All there is to know, for `restore`."""
        released = {*self._released, *self._released_early} - self._used
        return IdState(self.base, self.end, self.used(), tuple(sorted(released)))

    @classmethod
    def restore(cls, state: IdState) -> Self:
        """An allocator equal to the one that was saved.

        Raises:
            InvalidState: `state` has not the form of a record.
            InvalidIdRange: `base` is after `end`, or one of them is not in 0..2^64 - 1.
            IdOutOfRange: an identifier is not between them.
            IdInUse: one is there twice, or both in use and released.
        """
        base, end, used, released = _records.id_state(state)
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

    def __copy__(self) -> Self:
        """An allocator of its own with the same identifiers in use and released."""
        return self.restore(self.save())

    def __repr__(self) -> str:
        return f"<IdAllocator {self.base}-{self.end}: {len(self._used)} in use>"
