"""What all exits have in common."""

from __future__ import annotations


class _Expired:
    """In the place of data that are valid no more."""

    def __repr__(self) -> str:
        return "expired"


_EXPIRED = _Expired()


class ExitBase:
    """Compares and prints by `__match_args__`."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]  # what it tells of, the guest goes on to change

    def _values(self) -> tuple[object, ...]:
        return tuple(map(self._value, self.__match_args__))

    def _value(self, name: str) -> object:
        try:
            return getattr(self, name)
        except ValueError:  # a view that was taken back
            return _EXPIRED

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExitBase) or type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __repr__(self) -> str:
        shown = zip(self.__match_args__, map(_show, self._values()), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown)})"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return hex(value)
    return repr(value.tobytes() if isinstance(value, memoryview) else value)
