"""A raw image file, or a block device of the host, as a disk.

Data move between the file and the guest's memory in one system call per request. What the file
system cannot do (holes, zeroed ranges) is replaced by what has the same effect for the guest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct

from virtio_devices.block.allocation import Allocation
from virtio_devices.block.backend import DiskSizes
from virtio_devices.block.bounce import read_bounced, write_bounced
from virtio_devices.block.config import SECTOR_SIZE
from virtio_devices.errors import DiskImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from vm_memory import GuestMemory

    Spans = Sequence[tuple[int, int]]

# <linux/fs.h>
_BLKSSZGET = 0x1268
_BLKPBSZGET = 0x127B

# One call takes 1024 pieces (UIO_MAXIOV); a span that crosses regions of memory is several.
_SPANS_PER_CALL = 256
_ZEROS_SIZE = 1 << 20
_PHYSICAL_BLOCK = 4096  # of files: what every file system of today writes at once
_ALIGNMENTS = (512, 4096)


class RawImage:
    """A file whose bytes are those of the disk.

    While it is open for writing nobody else opens it as a `RawImage`, in this process or another
    one: it holds a lock (flock(2)), which ends with the process.

    Args:
        path: a regular file or a block device.
        read_only: open it for reading alone.
        direct: past the host's page cache (O_DIRECT).

    Raises:
        DiskImageError: it is neither, is in use, is no whole number of sectors, or cannot be read
            directly.
        OSError: it cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, read_only: bool = False, direct: bool = False
    ) -> None:
        self._path = path
        self._read_only = read_only
        self._direct = direct
        access = os.O_RDONLY if read_only else os.O_RDWR
        # O_NONBLOCK: nobody may be at the other end of a FIFO.
        flags = access | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECT if direct else 0)
        self._fd = self._open(flags)
        try:
            self._lock()
            self._sizes = self._measure()
            self._allocation = Allocation(self._fd, self._sizes.size)
            self._can_discard = not read_only and self._allocation.can_punch()
        except BaseException:
            self.close()
            raise

    @property
    def sizes(self) -> DiskSizes:
        """Sizes at the time of opening."""
        return self._sizes

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading alone."""
        return self._read_only

    @property
    def can_discard(self) -> bool:
        """Whether the host takes room back."""
        return self._can_discard

    @property
    def transfer_fd(self) -> int:
        """As `fileno`: a byte of the disk is where it is in the file (`FileBackend`)."""
        return self._fd

    def fileno(self) -> int:
        """The file descriptor, -1 once closed."""
        return self._fd

    def read(self, memory: GuestMemory, spans: Spans, offset: int) -> None:
        """Fill pieces of the guest from `offset` on; an end before the last byte is EIO."""
        try:
            self._move(memory, spans, offset, into_guest=True)
        except OSError as error:
            if not self._is_misaligned(error):
                raise
            read_bounced(self._fd, memory, spans, offset)

    def write(self, memory: GuestMemory, spans: Spans, offset: int) -> None:
        """Write pieces of the guest from `offset` on."""
        try:
            self._move(memory, spans, offset, into_guest=False)
        except OSError as error:
            if not self._is_misaligned(error):
                raise
            write_bounced(self._fd, memory, spans, offset)

    def flush(self) -> None:
        """fdatasync(2)."""
        os.fdatasync(self._fd)

    def discard(self, offset: int, size: int) -> None:
        """Punch a hole, if there can be one."""
        if size:
            self._allocation.punch(offset, size)

    def write_zeroes(self, offset: int, size: int, *, unmap: bool) -> None:
        """Zero a range: a hole with `unmap`, else zeroed blocks, else written zeros."""
        if not size or (unmap and self._allocation.punch(offset, size)):
            return
        if not self._allocation.zero(offset, size):
            self._write_zeros(offset, size)

    def close(self) -> None:
        """Close the file and give up its lock; may be called again.

        Reset a device on it before, so that no request is under way.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # a device has the file open too, until its reset
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RawImage {os.fspath(self._path)!r}{' closed' if self._fd < 0 else ''}>"

    # Opening

    def _open(self, flags: int) -> int:
        try:
            return os.open(self._path, flags)
        except OSError as error:
            if error.errno == errno.EINVAL and self._direct:
                raise DiskImageError(self._path, "cannot be opened past the page cache") from error
            raise

    def _lock(self) -> None:
        kind = fcntl.LOCK_SH if self._read_only else fcntl.LOCK_EX
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DiskImageError(
                self._path, "is in use already (by another virtual machine?)"
            ) from error

    def _measure(self) -> DiskSizes:
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISBLK(mode):
            logical, physical = self._ioctl(_BLKSSZGET), self._ioctl(_BLKPBSZGET)
        elif stat.S_ISREG(mode):
            logical, physical = SECTOR_SIZE, _PHYSICAL_BLOCK
        else:
            raise DiskImageError(self._path, "is neither a file nor a block device")
        if self._direct:
            logical = max(logical, self._direct_alignment())
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if not size:
            raise DiskImageError(self._path, "is empty")
        if size % logical:
            problem = f"has {size} bytes, which is no whole number of sectors of {logical}"
            raise DiskImageError(self._path, problem)
        return DiskSizes(size, logical, physical)

    def _ioctl(self, request: int) -> int:
        answer = fcntl.ioctl(self._fd, request, bytes(4))
        (value,) = struct.unpack("=i", answer)
        return int(value)

    def _direct_alignment(self) -> int:
        """The smallest unit that can be read directly here."""
        with mmap.mmap(-1, _ALIGNMENTS[-1]) as pages, memoryview(pages) as view:
            for size in _ALIGNMENTS:
                with view[:size] as part:
                    try:
                        os.preadv(self._fd, [part], 0)
                    except OSError as error:
                        if error.errno != errno.EINVAL:
                            raise
                    else:
                        return size
        raise DiskImageError(self._path, "cannot be read past the page cache")

    # Moving data

    def _is_misaligned(self, error: OSError) -> bool:
        return self._direct and error.errno == errno.EINVAL

    def _move(self, memory: GuestMemory, spans: Spans, offset: int, *, into_guest: bool) -> None:
        call = memory.readv if into_guest else memory.writev
        for first in range(0, len(spans), _SPANS_PER_CALL):
            part = spans[first : first + _SPANS_PER_CALL]
            size = sum([length for _address, length in part])
            moved = call(self._fd, part, offset)
            if moved < size:
                self._move_rest(memory, part, offset, moved, into_guest=into_guest)
            offset += size

    def _move_rest(
        self, memory: GuestMemory, spans: Spans, offset: int, moved: int, *, into_guest: bool
    ) -> None:
        """What a call left over: a signal, a full disk or the end of a file came in between."""
        call = memory.read_from_fd if into_guest else memory.write_to_fd
        for address, size in spans:
            done = min(size, moved)
            if done < size:
                count = call(address + done, self._fd, size - done, offset + done)
                if count < size - done:
                    raise OSError(errno.EIO, "the file ends before the disk does")
            moved -= done
            offset += size

    def _write_zeros(self, offset: int, size: int) -> None:
        with mmap.mmap(-1, min(size, _ZEROS_SIZE)) as zeros, memoryview(zeros) as view:
            while size:
                with view[:size] as part:
                    written = os.pwrite(self._fd, part, offset)
                offset += written
                size -= written
