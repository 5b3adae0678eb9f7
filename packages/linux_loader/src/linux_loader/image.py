"""A file to be loaded: by path, as an open file, or as bytes.

Knows how to read a piece of the file and how to put a piece straight into guest memory, and that
nothing about a file may be believed. It knows nothing of what the file holds.
"""

from __future__ import annotations

import io
import os
import stat

from linux_loader.errors import TruncatedImage, UnreadableImage

TYPE_CHECKING = False  # spares the import of typing, 5 ms
if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO, Self

    from linux_loader.seams import GuestMemory, Source


class Image:
    """The bytes of one file, read on demand; a context manager.

    Args:
        source: path, binary file object or content.
        role: what the file is to the user; error messages open with it.

    Raises:
        UnreadableImage: it cannot be opened, or is no regular file.
    """

    def __init__(self, source: Source, role: str) -> None:
        self.name = role
        self._fd: int | None = None
        self._owned = False
        self._content = memoryview(b"")
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._hold(source)
        elif isinstance(source, (str, os.PathLike)):
            self.name = f"{role} {os.fspath(source)}"
            self._open(source)
        else:
            self._borrow(source)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes at ``offset``; fewer only where the file ends."""
        if self._fd is None:
            return bytes(self._content[offset : offset + size])
        pieces = []
        try:
            while size > 0 and (piece := os.pread(self._fd, size, offset)):
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        except OSError as error:
            raise self._unreadable(error) from error
        return b"".join(pieces)

    def read_exactly(self, offset: int, size: int, part: str) -> bytes:
        """Return ``size`` bytes at ``offset``.

        Raises:
            TruncatedImage: the file ends before; ``part`` is what is missing.
        """
        self.require(offset + size, part)
        data = self.read(offset, size)
        if len(data) < size:  # the file shrank
            raise TruncatedImage(self.name, part, offset + size, offset + len(data))
        return data

    def require(self, end: int, part: str) -> None:
        """Raise TruncatedImage unless the file has at least ``end`` bytes."""
        if end > self._size:
            raise TruncatedImage(self.name, part, end, self._size)

    def copy_to(self, memory: GuestMemory, addr: int, offset: int, size: int, part: str) -> None:
        """Copy a piece of the file into guest memory; the caller has checked the guest range.

        From a file this is one read by the kernel into the guest's pages, without a copy of ours.

        Raises:
            TruncatedImage: the file ends before.
        """
        self.require(offset + size, part)
        if self._fd is None:
            memory.write(addr, self._content[offset : offset + size])
            return
        try:
            copied = memory.read_from_fd(addr, self._fd, size, offset=offset)
        except OSError as error:
            raise self._unreadable(error) from error
        if copied < size:  # the file shrank
            raise TruncatedImage(self.name, part, offset + size, offset + copied)

    def close(self) -> None:
        """Close the file if this object opened it."""
        if self._owned and self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self._content = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _hold(self, content: bytes | bytearray | memoryview) -> None:
        self._content = memoryview(content).cast("B")
        self._size = len(self._content)

    def _open(self, path: str | os.PathLike[str]) -> None:
        try:
            # O_NONBLOCK: opening a FIFO by mistake must not hang; regular files ignore it.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreadable(error) from error
        except ValueError as error:
            raise UnreadableImage(self.name, f"cannot be opened: {error}") from error
        self._owned = True
        try:
            self._require_regular(self._fd)
        except BaseException:
            self.close()
            raise

    def _borrow(self, file: BinaryIO) -> None:
        try:
            raw = getattr(file, "raw", file)
            # Only a plain file's descriptor holds what the object reads: a GzipFile has a
            # fileno() too, and it is the compressed file's.
            if isinstance(raw, io.FileIO):
                self._fd = raw.fileno()
                self._require_regular(self._fd)
                return
            file.seek(0)
            content: object = file.read()
        except UnreadableImage:
            raise
        except OSError as error:
            raise self._unreadable(error) from error
        except ValueError as error:  # a closed file
            raise UnreadableImage(self.name, f"cannot be read: {error}") from error
        if not isinstance(content, bytes):
            raise UnreadableImage(self.name, "cannot be read: the file is not open in binary mode")
        self._hold(content)

    def _require_regular(self, fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage(self.name, "cannot be read: it is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(self.name, "cannot be read: it is not a regular file")
        self._size = status.st_size

    def _unreadable(self, error: OSError) -> UnreadableImage:
        reason = (error.strerror or str(error)).lower()
        return UnreadableImage(self.name, f"cannot be read: {reason}", error.errno)
