"""A file descriptor that answers ioctls."""

from __future__ import annotations

import errno
import os
import warnings
from typing import TYPE_CHECKING

from kvm_ioctls._ffi import lib
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

    def ioctl(self, request: str, argument: CData | int = 0) -> int:
        """Issues the ioctl named `request`; raises `KvmError`.

        A signal that interrupts the call restarts it, after Python has run its handler (PEP 475).
        """
        if self.number < 0:
            raise KvmClosedError(self.name)
        call = lib.kvm_ioctl_value if isinstance(argument, int) else lib.kvm_ioctl_pointer
        code = getattr(lib, request)
        while (result := call(self.number, code, argument)) == -errno.EINTR:  # type: ignore[arg-type]
            pass
        if result < 0:
            raise KvmError(-result, request)
        return result

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
