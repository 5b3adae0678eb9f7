"""Structures in the run page, which the next exit takes back.

A view that was made of another one outlives its release.  So such a structure keeps none: each time
it looks at its place in what it is a part of, and at the bottom is the view that the page releases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from kvm_ioctls._ffi import ffi
from kvm_ioctls._struct import PARTS, KvmStruct, member, viewer

if TYPE_CHECKING:
    from kvm_ioctls._ffi import CType


class LentStruct(KvmStruct):
    """A structure that is of no use once the view that it lies in is released.

    Its arrays are tuples, whose numbers stay as they are.
    """

    __slots__ = ("_place", "_whole")

    _place: slice
    _whole: memoryview | LentStruct

    @classmethod
    def lent(cls, whole: memoryview | LentStruct, start: int = 0) -> Self:
        """The structure at `start` of the bytes of `whole`."""
        made = cls.__new__(cls)
        made._whole, made._place = whole, slice(start, start + cls.SIZE)  # noqa: SLF001 - our own
        return made

    @property
    def raw(self) -> memoryview:
        """The bytes; ValueError once they are taken back."""
        whole = self._whole
        return (whole.raw if isinstance(whole, LentStruct) else whole)[self._place]

    @raw.setter
    def raw(self, view: memoryview) -> None:
        self._whole, self._place = view, slice(None)

    @classmethod
    def _member(cls, name: str, ctype: CType, offset: int) -> property:
        usual = member(name, ctype, offset)
        if ctype.kind == "primitive":
            return usual
        if ctype.kind == "array":
            place, view = slice(offset, offset + ffi.sizeof(ctype)), viewer(ctype)
            return property(lambda self: tuple(view(self.raw[place])), usual.fset)
        part = PARTS[ctype]
        assert issubclass(part, LentStruct)  # noqa: S101 - a part of one is one
        return property(lambda self: part.lent(self, offset), usual.fset)
