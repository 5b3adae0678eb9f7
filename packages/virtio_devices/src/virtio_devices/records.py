"""Records of saved states are what their annotations say, checked before any of it is used.

Whoever keeps a record may have written it down and read it again: what comes back can be anything.
What the values must be to one another is for those who take them.
"""

from __future__ import annotations

from types import UnionType
from typing import get_args, get_origin, get_type_hints

from virtio_devices.errors import InvalidState

_PLAIN = (int, bool, str, bytes, object, tuple)


def check_record(value: object, kind: type, name: str = "") -> None:
    """Check that a value has a type, and all that is in it the type that is annotated.

    Args:
        value: what somebody says is a record.
        kind: the record's class. Its fields may be numbers, flags, text, bytes, `object`, tuples of
            one length or of any, each of these or None, and records.
        name: what the value is in the record that it is a part of.

    Raises:
        InvalidState: something is of another type; True and False are no numbers.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidState(f"has {value!r} for {name or kind.__name__}")
    if kind not in _PLAIN:
        for field, hint in _fields(kind).items():
            _check(getattr(value, field), hint, f"{name}.{field}" if name else field)


def _fields(kind: type) -> dict[str, object]:
    """Of a tuple with names those of the class, of another record those that it is made of."""
    hints = get_type_hints(kind if issubclass(kind, tuple) else vars(kind)["__init__"])
    return {field: hint for field, hint in hints.items() if field != "return"}


def _check(value: object, hint: object, name: str) -> None:
    if get_origin(hint) is tuple:
        _check_tuple(value, get_args(hint), name)
    elif isinstance(hint, UnionType):
        if value is not None:
            _check(value, get_args(hint)[0], name)
    elif isinstance(hint, type):
        check_record(value, hint, name)


def _check_tuple(value: object, hints: tuple[object, ...], name: str) -> None:
    if not isinstance(value, tuple):
        raise InvalidState(f"has {value!r} for {name}")
    if hints[1:] == (Ellipsis,):
        hints = hints[:1] * len(value)
    if len(value) != len(hints):
        raise InvalidState(f"has {len(value)} values for {name}, not {len(hints)}")
    for index, (each, hint) in enumerate(zip(value, hints, strict=True)):
        _check(each, hint, f"{name}[{index}]")
