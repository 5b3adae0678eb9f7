"""Typed views of C structures.

A subclass of `KvmStruct` names a C type and annotates the members that it offers; where each lies
and how wide it is comes from the compiler that built `kvm_ioctls._ffi`.  The bytes are the kernel's
own layout, so a structure goes into an ioctl as it is.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, dataclass_transform

from kvm_ioctls._arguments import elements, limits, octets, of_kind, within
from kvm_ioctls._ffi import ffi
from kvm_ioctls.errors import NotInHeaderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_ioctls._ffi import CField, CType

# typing.Buffer is Python 3.12's; until then a name that says what is meant.
Buffer: TypeAlias = "bytes | bytearray | memoryview"

# The default of a member that is a part of the structure: all zero, like every other member.
ZERO: Any = None

_Format: TypeAlias = Literal["B", "H", "I", "Q", "q"]
_INTEGERS: dict[tuple[int, bool], _Format] = {
    (1, False): "B",
    (2, False): "H",
    (4, False): "I",
    (8, False): "Q",
    (8, True): "q",
}
PARTS: dict[CType, type[KvmStruct]] = {}


class _Closed(type):
    """Keeps a class's instances to the members it declares: a misspelt one is an error."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> _Closed:
        namespace.setdefault("__slots__", ())
        return super().__new__(cls, name, bases, namespace, **options)


@dataclass_transform(kw_only_default=True, eq_default=True)
class KvmStruct(metaclass=_Closed):
    """A C structure in a bytearray of its own, or a part of another one.

    Members that are structures or arrays are views: writing to them writes to the whole.  Assigning
    to one copies.  Padding and reserved members have no attribute, but keep their bytes.

    A structure that grows (a keyword of the class) is a header before bytes whose number the host
    or the record itself tells.

    Args:
        fields: initial values by member name; everything else is zero.

    Attributes:
        raw: the bytes in the kernel's layout, writable.
        SIZE: the structure's size in bytes; 0 when this build has no layout for it, and then
            making one raises `NotInHeaderError`.
    """

    __slots__ = ("raw",)
    __hash__ = None  # type: ignore[assignment]  # mutable

    raw: memoryview
    CTYPE: ClassVar[str]
    GROWS: ClassVar[bool]
    SIZE: ClassVar[int]
    FIELDS: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, ctype: str = "", *, grows: bool = False) -> None:
        """Gives the class one property per annotated member of the C type `ctype`."""
        if not ctype:
            return  # a kind of structures
        cls.CTYPE, cls.GROWS, cls.SIZE, cls.FIELDS = ctype, grows, 0, ()
        try:
            layout = ffi.typeof(ctype)
        except ffi.error:
            return
        members, offered = dict(layout.fields), cls.__annotations__
        if not all(_matches(members.get(name), kind) for name, kind in offered.items()):
            return  # another architecture's structure of the same name
        cls.SIZE = ffi.sizeof(layout)
        cls.FIELDS = tuple(name for name in members if name in offered)
        for name in cls.FIELDS:
            place = members[name]
            setattr(cls, name, cls._member(f"{cls.__name__}.{name}", place.type, place.offset))
        PARTS[layout] = cls

    @classmethod
    def _member(cls, name: str, ctype: CType, offset: int) -> property:
        """The property for a member of type `ctype` at `offset`; messages call it `name`."""
        return member(name, ctype, offset)

    def __init__(self, **fields: object) -> None:
        self.raw = memoryview(bytearray(self.SIZE or self._size()))
        for name, value in fields.items():
            if name not in self.FIELDS:
                raise TypeError(f"{type(self).__name__} has no member {name!r}")
            setattr(self, name, value)

    @classmethod
    def _size(cls) -> int:
        if cls.SIZE == 0:
            raise NotInHeaderError(cls.CTYPE)
        return cls.SIZE

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """A structure with a copy of `data`: `SIZE` bytes, or more for one that grows."""
        size, copied = cls._size(), bytearray(octets("data", data))
        if len(copied) < size or (len(copied) > size and not cls.GROWS):
            at_least = "at least " if cls.GROWS else ""
            raise ValueError(f"{cls.__name__} is {at_least}{size} bytes, not {len(copied)}")
        return cls._at(memoryview(copied))

    @classmethod
    def over(cls, memory: bytearray | memoryview) -> Self:
        """A structure that lives in the first bytes of `memory`, without a copy.

        One that grows takes all of them.

        Raises:
            ValueError: it is read-only, or too short.
        """
        size, view = cls._size(), memoryview(memory).cast("B")
        if view.readonly or len(view) < size:
            what = "read-only ones" if view.readonly else f"{len(view)}"
            raise ValueError(f"{cls.__name__} takes {size} writable bytes, not {what}")
        return cls._at(view if cls.GROWS else view[:size])

    @classmethod
    def _at(cls, raw: memoryview) -> Self:
        made = cls.__new__(cls)
        made.raw = raw
        return made

    def copy(self) -> Self:
        """An equal structure with bytes of its own."""
        return self._at(memoryview(bytearray(self.raw)))

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        """For `copy` and `pickle`: the bytes, not where they are."""
        return type(self).from_bytes, (bytes(self.raw),)

    def __bytes__(self) -> bytes:
        return bytes(self.raw)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.raw == other.raw

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self.FIELDS)
        return f"{type(self).__name__}({', '.join(f'{n}={_show(v)}' for n, v in shown if _set(v))})"


def _matches(member: CField | None, kind: str) -> bool:
    """Whether a member is there, and has the class that `kind` names if it is a structure."""
    if member is None or member.type.kind in ("primitive", "array"):
        return member is not None
    part = PARTS.get(member.type)
    return part is not None and part.__name__ == kind


def member(name: str, ctype: CType, offset: int) -> property:
    """The property for a member of type `ctype` at `offset`; messages call it `name`."""
    end = offset + ffi.sizeof(ctype)
    if ctype.kind == "primitive":
        code = struct.Struct("=" + _format(ctype))
        unpack, pack = code.unpack_from, code.pack_into

        def get_integer(self: KvmStruct) -> int:
            value: int = unpack(self.raw, offset)[0]
            return value

        def set_integer(self: KvmStruct, value: int) -> None:
            try:
                pack(self.raw, offset, value)
            except struct.error:
                within(name, value, *limits(ctype))
                raise

        return property(get_integer, set_integer)

    view = viewer(ctype)

    def get_part(self: KvmStruct) -> object:
        return view(self.raw[offset:end])

    def set_part(self: KvmStruct, value: object) -> None:
        _assign(name, view(self.raw[offset:end]), value)

    return property(get_part, set_part)


def viewer(ctype: CType) -> Callable[[memoryview], Any]:
    """What turns the bytes of a structure or an array into the object that stands for it."""
    if ctype.kind != "array":
        return PARTS[ctype]._at  # noqa: SLF001 - our own
    item = ctype.item
    if item.kind != "primitive":
        size, each = ffi.sizeof(item), viewer(item)
        places = [slice(i * size, i * size + size) for i in range(ctype.length)]
        return lambda raw: tuple(each(raw[place]) for place in places)
    code: _Format = "B" if ffi.sizeof(item) == 1 else _format(item)
    return lambda raw: raw.cast("B").cast(code)


def _format(ctype: CType) -> _Format:
    return _INTEGERS[ffi.sizeof(ctype), not ctype.cname.startswith("unsigned")]


def _assign(name: str, part: Any, value: Any) -> None:
    """Copies `value` into a view."""
    if isinstance(part, KvmStruct):
        part.raw[:] = of_kind(name, value, type(part)).raw
        return
    values = elements(name, value)
    if len(values) != len(part):
        raise ValueError(f"{name} takes {len(part)} values, not {len(values)}")
    if isinstance(part, tuple):
        for place, (element, new) in enumerate(zip(part, values, strict=True)):
            _assign(f"{name}[{place}]", element, new)
    else:
        highest = (1 << 8 * part.itemsize) - 1  # no structure has an array of signed numbers
        checked = [within(f"{name}[{i}]", new, 0, highest) for i, new in enumerate(values)]
        for place, new in enumerate(checked):
            part[place] = new


def _set(value: Any) -> bool:
    """Whether a member differs from zero."""
    if isinstance(value, KvmStruct):
        return any(value.raw)
    if isinstance(value, int):
        return value != 0
    return any(_set(element) for element in value)


def _show(value: Any) -> str:
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, memoryview):
        if value.itemsize == 1:
            return repr(value.tobytes().rstrip(b"\0"))
        return f"[{', '.join(map(hex, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_show, value))})"
    return repr(value)
