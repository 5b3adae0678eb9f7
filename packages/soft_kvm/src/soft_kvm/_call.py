"""The bridge to C: results to exceptions, structures to pointers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls import KvmError
from soft_kvm._ffi import ffi

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from soft_kvm._ffi import CData

    class Record(Protocol):
        """A structure of the KVM API: `kvm_ioctls`' own keep their bytes in `raw`."""

        raw: memoryview


def check(result: int, ioctl: str, hint: str | None = None) -> int:
    """The result, or the error that KVM's `ioctl` would have failed with.

    Raises:
        KvmError: the result is a negative errno.
    """
    if result < 0:
        raise KvmError(-result, ioctl, hint)
    return result


def address(memory: object) -> CData:
    """Where the bytes of a buffer are; whoever holds the buffer keeps them there.

    The borrow ends at once: a memoryview that is collected as garbage while cffi borrows it
    crashes CPython (issue 77894).
    """
    borrow = ffi.from_buffer(memory)
    place = ffi.cast("void *", borrow)
    ffi.release(borrow)
    return place


def pointer(ctype: str, record: Record) -> CData:
    """The address of a structure's bytes; `record` keeps them alive during the call.

    Raises:
        TypeError: it is another structure.
    """
    if f"{getattr(record, 'CTYPE', None)} *" != ctype:
        raise TypeError(f"need a {ctype.removesuffix(' *')}, not {record!r}")
    return ffi.cast(ctype, address(record.raw))


def packed(ctype: str, entries: Iterable[Record]) -> bytes:
    """The bytes of a list of structures.

    Raises:
        TypeError: an entry is another structure: C would read past the last one.
    """
    listed = list(entries)
    for entry in listed:
        if getattr(entry, "CTYPE", None) != ctype:
            raise TypeError(f"need a list of {ctype}, not one with {entry!r}")
    return b"".join(bytes(entry.raw) for entry in listed)
