"""A file descriptor that answers ioctls."""

from __future__ import annotations

import errno
import os
import warnings
from typing import TYPE_CHECKING, Any, Self, TypeVar

from kvm_ioctls import _run
from kvm_ioctls._arguments import fits, limits, of_kind, shortened, unsigned, within
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls._run import Handle
from kvm_ioctls.errors import KvmClosedError, KvmError, NotInHeaderError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from kvm_ioctls._ffi import CData, CField
    from kvm_ioctls._run import Buffer, Entry
    from kvm_ioctls._struct import KvmStruct

Structure = TypeVar("Structure", bound="KvmStruct")

_CODES: dict[str, int] = {}  # quicker than asking the compiled module each time
_INTERRUPTED = -errno.EINTR


class Descriptor(Handle):
    """Owns the file descriptor `number` and closes it exactly once.

    Args:
        number: the file descriptor.
        name: what messages call its owner.
    """

    __slots__ = ("name",)

    def __init__(self, number: int, name: str) -> None:
        self.name = name
        super().__init__(number)

    def ioctl(self, request: str, value: int = 0, name: str = "argument", bits: int = 32) -> int:
        """Issues the ioctl named `request` with a number; raises `KvmError`.

        A signal that interrupts the call restarts it, after Python has run its handler (PEP 475).

        Args:
            request: its name.
            value: the number.
            name: what our caller calls it.
            bits: how many of it the kernel looks at.
        """
        value = unsigned(name, value, bits)
        result = self._call(request, value)
        if result < 0:
            raise KvmError(-result, request, arguments=f"{value:#x}" if value else "")
        return result

    def ioctl_record(self, request: str, record: CData) -> int:
        """The same with a C structure."""
        result = self._call(request, ffi.buffer(record))
        if result < 0:
            raise KvmError(-result, request, arguments=_members(record))
        return result

    def ioctl_buffer(self, request: str, buffer: bytearray | memoryview) -> int:
        """The same with a buffer, at least as long as the request's number says."""
        result = self._call(request, buffer)
        if result < 0:
            raise KvmError(-result, request)
        return result

    def fill(self, request: str, structure: Structure) -> Structure:
        """The same with a structure that the kernel fills, and which is returned."""
        result = self._call(request, structure.raw)
        if result < 0:
            raise KvmError(-result, request, arguments=shortened(repr(structure)))
        return structure

    def fetch(self, request: str, kind: type[Structure]) -> Structure:
        """The same with a new structure of zeros."""
        return self.fill(request, _run.blank(kind, kind.SIZE) if kind.SIZE else kind())

    def put(self, request: str, structure: Structure, kind: type[Structure]) -> None:
        """The same with a structure of this kind that the kernel reads."""
        if type(structure) is not kind:
            of_kind(f"what {request} takes", structure, kind)
        result = self._call(request, structure.raw)
        if result < 0:
            raise KvmError(-result, request, arguments=shortened(repr(structure)))

    def make(self, request: str, name: str, argument: int | CData = 0) -> Descriptor:
        """The same with one that makes a descriptor, which has an owner from the first moment.

        Args:
            request: its name.
            name: what messages call the new descriptor's owner.
            argument: a number that has been looked at, or a C structure.
        """
        made = Descriptor(-1, name)
        if isinstance(argument, int):
            result = self._call(request, argument, made)
            arguments = f"{argument:#x}" if argument else ""
        else:
            result = self._call(request, ffi.buffer(argument), made)
            arguments = _members(argument)
        if result < 0:
            raise KvmError(-result, request, arguments=arguments)
        return made

    def ioctl_entry(self, request: str, record: CData, entry: Entry) -> None:
        """`ioctl_record()`, and what it changes is entered in the same step.

        Args:
            request: its name.
            record: the C structure.
            entry: a dictionary, a key, and its new value; None for none.
        """
        result = self._call(request, ffi.buffer(record), entry)
        if result < 0:
            raise KvmError(-result, request, arguments=_members(record))

    def _call(self, request: str, argument: int | Buffer, *then: Handle | Entry) -> int:
        code = _CODES.get(request) or number(request)
        while (result := _run.ioctl(self, code, argument, *then)) == _INTERRUPTED:
            pass
        return result

    def fileno(self) -> int:
        """The number, for those who need it."""
        if self.number < 0:
            raise KvmClosedError(self.name)
        return self.number

    def close(self) -> bool:
        """Closes it; False when it was closed before.

        A thread that is in the kernel with it finishes there; the number is free after that.
        """
        return self._close()

    def __del__(self) -> None:
        if self.number >= 0:
            warnings.warn(f"unclosed {self.name}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def adopt(number: int, name: str) -> Descriptor:
    """Takes over an open descriptor; one that is not open stays whose it is.

    Raises:
        KvmError: EBADF: it is not open.
    """
    unsigned("number", number, 31)
    try:
        os.fstat(number)
    except OSError as error:
        raise KvmError(error.errno or 0, "fstat", arguments=f"{number}") from None
    return Descriptor(number, name)


class Resource:
    """What owns a descriptor: a context manager.

    The requests of an object are spread over parts by topic; each part derives from this class.
    """

    _fd: Descriptor

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd.fileno()

    def close(self) -> None:
        """Closes it; again is harmless."""
        self._fd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def number(name: str) -> int:
    """The number of this name in the kernel's header, a request's for instance."""
    try:
        value: int = getattr(lib, name)
    except AttributeError:
        raise NotInHeaderError(name) from None
    return _CODES.setdefault(name, value)


def record(ctype: str, members: Mapping[str, Any] | None = None) -> CData:
    """A C structure for a request; zero where `members` does not say."""
    try:
        return ffi.new(f"{ctype} *", members or {})
    except ffi.error:
        raise NotInHeaderError(ctype) from None
    except (TypeError, OverflowError, IndexError):
        fits(ctype, ffi.typeof(ctype), members)
        raise


def scalar(ctype: str, name: str, value: int) -> CData:
    """A number for a request that points to one; our caller calls it `name`."""
    return ffi.new(f"{ctype} *", within(name, value, *limits(ffi.typeof(ctype))))


def _members(record: CData) -> str:
    """The members of a C structure that are numbers other than zero."""
    kind = ffi.typeof(record).item
    if kind.kind != "struct":
        return shortened(f"{record[0]:#x}")
    numbers = ((name, getattr(record, name)) for name, member in kind.fields if _is_number(member))
    return shortened(", ".join(f"{name}={value:#x}" for name, value in numbers if value))


def _is_number(member: CField) -> bool:
    return member.type.kind == "primitive"
