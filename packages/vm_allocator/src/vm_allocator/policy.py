"""Which of the free places an allocation takes.

With every policy the result depends on the ranges in use alone, never on the order in which
they came to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias


class _FirstMatch:
    """The lowest aligned place that is free."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "FirstMatch"


class _LastMatch:
    """The highest aligned place that is free; allocations pack downward from the end."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "LastMatch"


class _BestFit:
    """The lowest aligned place in the smallest free range that has one; of equals, the lowest.

    The size that counts is that of the free range as a whole, even if a window cuts it. The first
    use makes the allocator keep a second tree, of free ranges by size, from then on.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "BestFit"


class ExactMatch:
    """The place at `address`, or none."""

    __match_args__ = ("address",)
    __slots__ = ("address",)

    def __init__(self, address: int) -> None:
        self.address = address

    def __repr__(self) -> str:
        return f"ExactMatch({self.address:#x})"


#: The lowest aligned place that is free.
FirstMatch: Final = _FirstMatch()
#: The highest aligned place that is free; allocations pack downward from the end.
LastMatch: Final = _LastMatch()
#: The lowest aligned place in the smallest free range that has one.
BestFit: Final = _BestFit()

#: Any of the four.
Policy: TypeAlias = _FirstMatch | _LastMatch | _BestFit | ExactMatch
