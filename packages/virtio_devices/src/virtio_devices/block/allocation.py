"""Room in a file: holes and zeroed ranges, by fallocate(2), which Python does not have."""

from __future__ import annotations

import errno
import os

# <linux/falloc.h>
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})


class Allocation:
    """What may be done to the room of an open file.

    Args:
        fd: the file, open for writing if anything but `can_punch` is called; stays the caller's.
        size: its bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        import ctypes  # noqa: PLC0415  # a quarter of the package's import budget

        self._fd = fd
        self._size = size
        self._errno = ctypes.get_errno
        library = ctypes.CDLL(None, use_errno=True)
        self._fallocate = library.fallocate
        self._fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def can_punch(self) -> bool:
        """Whether holes are possible; finds out behind the end of the file, where nothing is."""
        try:
            return self.punch(self._size, 4096)
        except OSError as error:
            # Behind the end of a block device nothing can be tried: it may be able to.
            return error.errno == errno.EINVAL

    def punch(self, offset: int, size: int) -> bool:
        """Make a hole, which reads as zeros; False if the file cannot have one."""
        return self._call(_PUNCH_HOLE | _KEEP_SIZE, offset, size)

    def zero(self, offset: int, size: int) -> bool:
        """Zero a range and keep its room; False if the file system has no way of its own."""
        return self._call(_ZERO_RANGE | _KEEP_SIZE, offset, size)

    def _call(self, mode: int, offset: int, size: int) -> bool:
        while self._fallocate(self._fd, mode, offset, size):
            number = self._errno()
            if number in _UNSUPPORTED:
                return False
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))
        return True
