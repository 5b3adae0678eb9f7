"""The bridge to C: results to exceptions, structures to pointers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls import KvmError
from soft_kvm._ffi import ffi

if TYPE_CHECKING:
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
    """The address of a structure's bytes; `record` keeps them alive during the call."""
    return ffi.cast(ctype, address(record.raw))
