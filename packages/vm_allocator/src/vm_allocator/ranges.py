"""Ranges of addresses and who owns them.

Both ends belong to a range, so that the whole 64-bit space is one. The classes are written
out because ``dataclasses`` alone would take most of this package's import budget.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from vm_allocator.errors import InvalidRange, InvalidSize

if TYPE_CHECKING:
    from typing import Self

#: The highest address there is.
LAST_ADDRESS = (1 << 64) - 1


class Range:
    """The addresses from `start` to `end`, both inclusive. Immutable and hashable.

    Raises:
        InvalidRange: `start` is after `end`, or one of them is not in 0..2^64 - 1.
        TypeError: one of them is no whole number.
    """

    __match_args__ = ("start", "end")
    __slots__ = ("_end", "_start")

    def __init__(self, start: int, end: int) -> None:
        start, end = index(start), index(end)
        if not 0 <= start <= end <= LAST_ADDRESS:
            raise InvalidRange(start, end)
        self._start = start
        self._end = end

    @classmethod
    def sized(cls, start: int, size: int) -> Self:
        """The `size` addresses from `start` on.

        Raises:
            InvalidSize: `size` is less than 1.
            InvalidRange: the range does not fit into 0..2^64 - 1.
        """
        start, size = index(start), index(size)
        if size < 1:
            raise InvalidSize(size)
        return cls(start, start + size - 1)

    @property
    def start(self) -> int:
        """The first address."""
        return self._start

    @property
    def end(self) -> int:
        """The last address."""
        return self._end

    @property
    def size(self) -> int:
        """How many addresses; up to 2^64, which is why this is not ``len()``."""
        return self._end - self._start + 1

    def overlaps(self, other: Range) -> bool:
        """Whether both have at least one address in common."""
        return self._start <= other._end and other._start <= self._end

    def contains(self, other: Range) -> bool:
        """Whether every address of `other` is in this range."""
        return self._start <= other._start and other._end <= self._end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Range):
            return NotImplemented
        return self._start == other._start and self._end == other._end

    def __hash__(self) -> int:
        return hash((self._start, self._end))

    def __repr__(self) -> str:
        return f"Range({self._start:#x}, {self._end:#x})"

    def __str__(self) -> str:
        return f"{self._start:#x}-{self._end:#x}"


def check_range(value: Range) -> Range:
    """`value`; raises TypeError if it is no range."""
    if not isinstance(value, Range):
        raise TypeError(f"{value!r} is no Range")
    return value


class Allocation:
    """A range in use and the name of its owner. Immutable and hashable."""

    __match_args__ = ("range", "owner")
    __slots__ = ("_owner", "_range")

    def __init__(self, range: Range, owner: str = "") -> None:  # noqa: A002 - the plain word
        self._range = range
        self._owner = owner

    @property
    def range(self) -> Range:
        """The addresses in use."""
        return self._range

    @property
    def owner(self) -> str:
        """Whatever the caller named; "" if nothing."""
        return self._owner

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Allocation):
            return NotImplemented
        return self._range == other._range and self._owner == other._owner

    def __hash__(self) -> int:
        return hash((self._range, self._owner))

    def __repr__(self) -> str:
        return f"Allocation({self._range!r}, {self._owner!r})"

    def __str__(self) -> str:
        return f"{self._range} ({printed(self._owner)})" if self._owner else str(self._range)


def printed(owner: str) -> str:
    """The name, quoted if it would break the line or pass for a remark in parentheses."""
    return owner if owner.isprintable() and not owner.startswith("(") else repr(owner)
