"""Where an ioeventfd listens: a port, or a guest physical address.

Written out rather than generated: importing `dataclasses` costs more than the rest of the package.
"""

from __future__ import annotations

from typing import NoReturn


class _Address:
    """An immutable number that equals only its own kind."""

    __slots__ = ("_value",)

    def __init__(self, value: int) -> None:
        object.__setattr__(self, "_value", value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._value == other._value

    def __hash__(self) -> int:
        return hash((type(self), self._value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._value:#x})"

    def __reduce__(self) -> tuple[type[_Address], tuple[int]]:
        return type(self), (self._value,)

    _value: int


class Pio(_Address):
    """An I/O port."""

    __slots__ = ()
    __match_args__ = ("port",)

    def __init__(self, port: int) -> None:
        super().__init__(port)

    @property
    def port(self) -> int:
        """The port's number."""
        return self._value


class Mmio(_Address):
    """A guest physical address."""

    __slots__ = ()
    __match_args__ = ("address",)

    def __init__(self, address: int) -> None:
        super().__init__(address)

    @property
    def address(self) -> int:
        """The address."""
        return self._value
