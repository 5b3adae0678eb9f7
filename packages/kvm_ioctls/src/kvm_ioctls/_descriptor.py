"""A file descriptor that answers ioctls."""

from __future__ import annotations

import errno
import os
import warnings
from typing import TYPE_CHECKING

from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.errors import KvmClosedError, KvmError

if TYPE_CHECKING:
    from kvm_ioctls._ffi import CData


class Descriptor:
    """Owns the file descriptor `number` and closes it exactly once.

    Args:
        number: the file descriptor.
        name: what messages call its owner.
    """

    __slots__ = ("name", "number")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name

    def ioctl(self, request: str, value: int = 0) -> int:
        """Issues the ioctl named `request` with a number; raises `KvmError`.

        A signal that interrupts the call restarts it, after Python has run its handler (PEP 475).
        """
        number, code = self.fileno(), getattr(lib, request)
        while (result := lib.kvm_ioctl_value(number, code, value)) == -errno.EINTR:
            pass
        return _checked(request, result)

    def ioctl_record(self, request: str, record: CData) -> int:
        """The same with the address of a C structure."""
        number, code = self.fileno(), getattr(lib, request)
        while (result := lib.kvm_ioctl_pointer(number, code, record)) == -errno.EINTR:
            pass
        return _checked(request, result)

    def ioctl_buffer(self, request: str, buffer: bytearray | memoryview) -> int:
        """The same with the address of a buffer, which C borrows for the call only.

        Given back explicitly: an exception's traceback would hold the borrow, and until Python 3.12
        a garbage collection that clears a borrowed memoryview crashes (CPython issue 77894).
        """
        borrow = ffi.from_buffer("char[]", buffer)
        try:
            return self.ioctl_record(request, borrow)
        finally:
            ffi.release(borrow)

    def fileno(self) -> int:
        """The number, for those who need it."""
        if self.number < 0:
            raise KvmClosedError(self.name)
        return self.number

    def close(self) -> bool:
        """Closes it; False when it was closed before."""
        number, self.number = self.number, -1
        if number < 0:
            return False
        os.close(number)
        return True

    def __del__(self) -> None:
        if self.number >= 0:
            warnings.warn(f"unclosed {self.name}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def _checked(request: str, result: int) -> int:
    if result < 0:
        raise KvmError(-result, request)
    return result
