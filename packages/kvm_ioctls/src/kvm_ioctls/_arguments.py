"""One rule for arguments: the wrong type is a TypeError, a value out of range a ValueError.

Either is one sentence with the argument's name and its value.  What packs many numbers (`struct`,
cffi) packs first, and asks here only when that fails: a value that fits costs nothing.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, TypeVar

from kvm_ioctls._ffi import ffi

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvm_ioctls._ffi import CType

Kind = TypeVar("Kind")
Element = TypeVar("Element")

_SHOWN = 120  # characters of a value in a message


def shortened(text: str) -> str:
    """The beginning of a text that may be long."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def within(name: str, value: Any, lowest: int, highest: int) -> int:
    """`value` as an int from `lowest` to `highest`."""
    try:
        number = index(value)
    except TypeError:
        raise wrong_type(name, "an int", value) from None
    if not lowest <= number <= highest:
        raise ValueError(f"{name} is {lowest:#x} to {highest:#x}, not {number:#x}")
    return number


def unsigned(name: str, value: Any, bits: int) -> int:
    """`value` as an unsigned number of so many bits."""
    return within(name, value, 0, (1 << bits) - 1)


def word(name: str, value: Any, bits: int) -> int:
    """`value` as an unsigned number of so many bits, of which -1 is the largest."""
    return within(name, value, -(1 << bits - 1), (1 << bits) - 1) & (1 << bits) - 1


def of_kind(name: str, value: Any, kind: type[Kind]) -> Kind:
    """`value`, which is of exactly this class."""
    if type(value) is not kind:
        raise wrong_type(name, f"of type {kind.__name__}", value)
    return value


def elements(name: str, value: Iterable[Element]) -> list[Element]:
    """What `value` iterates over."""
    try:
        listed = iter(value)
    except TypeError:
        raise wrong_type(name, "a sequence", value) from None
    return list(listed)


def octets(name: str, value: Any) -> bytes:
    """A copy of the bytes in the buffer `value`."""
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise wrong_type(name, "a buffer of bytes", value) from None


def wrong_type(name: str, wanted: str, value: object) -> TypeError:
    """The error for a `value` that is not what is wanted."""
    return TypeError(f"{name} is {wanted}, not {shortened(repr(value))}")


def limits(ctype: CType) -> tuple[int, int]:
    """The lowest and the highest number of a C type."""
    bits = 8 * ffi.sizeof(ctype)
    if ctype.cname.startswith("unsigned"):
        return 0, (1 << bits) - 1
    return -(1 << bits - 1), (1 << bits - 1) - 1


def fits(name: str, ctype: CType, value: Any) -> None:
    """Finds out what of `value` cffi cannot make a `ctype` of."""
    if ctype.kind == "primitive":
        within(name, value, *limits(ctype))
    elif ctype.kind == "array":
        listed = elements(name, value)
        if len(listed) > ctype.length:
            raise ValueError(f"{name} has at most {ctype.length} values, not {len(listed)}")
        for place, element in enumerate(listed):
            fits(f"{name}[{place}]", ctype.item, element)
    elif ctype.kind in ("struct", "union"):
        members = dict(ctype.fields)
        for member, element in value.items():
            fits(f"{member} of {ctype.cname}", members[member].type, element)
