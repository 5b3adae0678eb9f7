"""Which of the free places an allocation takes.

With every policy the result depends on the ranges in use alone, never on the order in which
they came to be. A copy or a pickle of one of the first three is that very object again.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias


class _FirstMatch:
    """The lowest aligned place that is free."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "FirstMatch"

    def __reduce__(self) -> str:
        return "FirstMatch"


class _LastMatch:
    """The highest aligned place that is free; allocations pack downward from the end."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "LastMatch"

    def __reduce__(self) -> str:
        return "LastMatch"


class _BestFit:
    """The lowest aligned place in the smallest free range that has one; of equals, the lowest.

    The size that counts is that of the free range as a whole, even if a window cuts it. The first
    use makes the allocator keep a second tree, of free ranges by size, from then on.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "BestFit"

    def __reduce__(self) -> str:
        return "BestFit"


class ExactMatch:
    """The place at `address`, or none. Immutable and hashable; raises TypeError for no number."""

    __match_args__ = ("address",)
    __slots__ = ("_address",)

    def __init__(self, address: int) -> None:
        self._address = index(address)

    @property
    def address(self) -> int:
        """The first address."""
        return self._address

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExactMatch):
            return NotImplemented
        return self._address == other._address

    def __hash__(self) -> int:
        return hash((ExactMatch, self._address))

    def __repr__(self) -> str:
        return f"ExactMatch({self._address:#x})"


#: The lowest aligned place that is free.
FirstMatch: Final = _FirstMatch()
#: The highest aligned place that is free; allocations pack downward from the end.
LastMatch: Final = _LastMatch()
#: The lowest aligned place in the smallest free range that has one.
BestFit: Final = _BestFit()

#: Any of the four.
Policy: TypeAlias = _FirstMatch | _LastMatch | _BestFit | ExactMatch
