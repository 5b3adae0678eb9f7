"""Which of the free places an allocation takes.

With every policy the result depends on the ranges in use alone, never on the order in which
they came to be.
"""

from __future__ import annotations

TYPE_CHECKING = False
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

#: Any of the three.
Policy: TypeAlias = _FirstMatch | _LastMatch | ExactMatch
