"""Small numbers, each handed out to one owner at a time."""

from __future__ import annotations

from heapq import heappop, heappush

from vm_allocator.errors import (
    AlreadyReleased,
    IdInUse,
    NeverAllocated,
    NoFreeId,
    OutOfRange,
)
from vm_allocator.ranges import Range


class IdAllocator:
    """The identifiers from `base` to `end`, both inclusive; the lowest free one comes first.

    Not safe to change from two threads at once: the owner of the allocator locks.

    Raises:
        InvalidRange: `base` is after `end`, or one of them is not in 0..2^64 - 1.
    """

    # Below `_next`, and here and there above it after `reserve`, identifiers have been handed
    # out: each is in `_used` or in `_released`. `_heap` holds every released one, and some that
    # `reserve` took since.
    __slots__ = ("_heap", "_next", "_range", "_released", "_used")

    def __init__(self, base: int, end: int) -> None:
        self._range = Range(base, end)
        self._next = base
        self._used: set[int] = set()
        self._released: set[int] = set()
        self._heap: list[int] = []

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
        while self._next in self._used or self._next in self._released:
            self._next += 1
        while self._heap and self._heap[0] not in self._released:
            heappop(self._heap)
        if self._heap and self._heap[0] < self._next:
            lowest = heappop(self._heap)
            self._released.remove(lowest)
        elif self._next <= self.end:
            lowest = self._next
            self._next += 1
        else:
            raise NoFreeId(self.base, self.end)
        self._used.add(lowest)
        return lowest

    def reserve(self, id: int) -> None:  # noqa: A002 - the plain word
        """Hand out exactly `id`.

        Raises:
            OutOfRange: it is not between `base` and `end`.
            IdInUse: it is in use.
        """
        self._check(id)
        if id in self._used:
            raise IdInUse(id)
        self._released.discard(id)
        self._used.add(id)

    def free(self, id: int) -> None:  # noqa: A002 - the plain word
        """Take `id` back.

        Raises:
            OutOfRange: it is not between `base` and `end`.
            NeverAllocated: it was never handed out.
            AlreadyReleased: it was handed out and has been taken back since.
        """
        if id in self._used:
            self._used.remove(id)
            self._released.add(id)
            heappush(self._heap, id)
            return
        self._check(id)
        if id in self._released:
            raise AlreadyReleased(id)
        raise NeverAllocated(id)

    def is_allocated(self, id: int) -> bool:  # noqa: A002 - the plain word
        """Whether `id` is in use."""
        return id in self._used

    def _check(self, id: int) -> None:  # noqa: A002 - the plain word
        if not self.base <= id <= self.end:
            raise OutOfRange(id, id, self._range)

    def __repr__(self) -> str:
        return f"<IdAllocator {self.base}-{self.end}: {len(self._used)} in use>"
