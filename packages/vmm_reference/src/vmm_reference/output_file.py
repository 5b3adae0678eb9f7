"""A file for what a guest says: nobody else's while the guest runs, and emptied as the last thing.

A machine is made of several files, and its user may confuse them. What is in this one is lost only
when all others are open and the machine is complete.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from vmm_reference.errors import InputFileError
from vmm_reference.os_reason import os_reason

if TYPE_CHECKING:
    from pathlib import Path


class OutputFile:
    """The file, made if there is none, with its contents as yet.

    A regular file or a block device is locked (flock(2)) as `virtio_devices.RawImage` locks a
    disk's image, against these and against each other.

    Args:
        flag: who names it.
        path: the file.

    Attributes:
        path: the file's.

    Raises:
        InputFileError: it cannot be written, is in use, or is a FIFO without a reader.
    """

    def __init__(self, flag: str, path: Path) -> None:
        self.path = path
        self._flag = flag
        self._fd = self._open()
        try:
            self._mode = os.fstat(self._fd).st_mode
            if stat.S_ISREG(self._mode) or stat.S_ISBLK(self._mode):
                self._lock()
            os.set_blocking(self._fd, True)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._fd

    def empty(self) -> None:
        """Empty it, if it holds anything: a device or a FIFO does not.

        Raises:
            InputFileError: the host does not permit it.
        """
        if not stat.S_ISREG(self._mode):
            return
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file and give up its lock; may be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> int:
        # O_NONBLOCK: opening a FIFO would wait for somebody who reads.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(self.path, flags, 0o644)
        except OSError as error:
            if error.errno == errno.ENXIO and self.path.is_fifo():
                reason = "is a FIFO that nobody reads"
                raise InputFileError(self._flag, self.path, reason) from error
            raise self._unwritable(error) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            reason = "is in use already (by another flag or virtual machine?)"
            raise InputFileError(self._flag, self.path, reason) from error
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputFileError:
        reason = f"cannot be written: {os_reason(error)}"
        return InputFileError(self._flag, self.path, reason)
