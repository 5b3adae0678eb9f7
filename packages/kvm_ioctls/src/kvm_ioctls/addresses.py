"""A place that guests access: a port, or a guest physical address.

Written out rather than generated: importing `dataclasses` costs more than the rest of the package.
"""

from __future__ import annotations

from typing import NoReturn

from kvm_ioctls._arguments import unsigned, wrong_type


class _Address:
    """An immutable number that equals only its own kind."""

    __slots__ = ("_value",)

    def __init__(self, name: str, value: int, bits: int) -> None:
        object.__setattr__(self, "_value", unsigned(name, value, bits))

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
        super().__init__("port", port, 16)

    @property
    def port(self) -> int:
        """The port's number."""
        return self._value


class Mmio(_Address):
    """A guest physical address."""

    __slots__ = ()
    __match_args__ = ("address",)

    def __init__(self, address: int) -> None:
        super().__init__("address", address, 64)

    @property
    def address(self) -> int:
        """The address."""
        return self._value


def place_of(address: Pio | Mmio) -> tuple[bool, int]:
    """Whether it is a port, and its number.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(address, Pio):
        return True, address.port
    if isinstance(address, Mmio):
        return False, address.address
    raise wrong_type("address", "a Pio or an Mmio", address)
