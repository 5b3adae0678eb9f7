"""Where a port's bytes go: a descriptor that may be slow, a function, or nowhere."""

from __future__ import annotations

import errno
import os
import select

from virtio_devices.descriptor import OwnDescriptor, Readiness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vm_memory import GuestMemory

    Spans = list[tuple[int, int]]

#: Bytes of one write. A pipe that is ready takes as many without blocking (PIPE_BUF, pipe(7)).
PIECE = 4096

#: Bytes that may wait outside of the guest: those of emergency writes, which have no buffer there.
_MAX_BACKLOG = 4096

_MASTER = os.makedev(5, 2)  # of pseudo terminals, Documentation/admin-guide/devices.txt


class Output:
    """Takes bytes as far as it can, now.

    Args:
        target: a descriptor, a function that takes all it is given, or None.
        on_error: told why bytes were lost, the first time and after each time that it worked.

    Attributes:
        lost: bytes that nobody took: the other end is closed or fails, or there was no room for an
            emergency write.
    """

    __slots__ = (
        "_backlog",
        "_call",
        "_failed",
        "_on_error",
        "_own",
        "_poll",
        "_readiness",
        "_target",
        "lost",
    )

    def __init__(
        self,
        target: int | Callable[[bytes], object] | None,
        on_error: Callable[[OSError], object] = lambda _error: None,
    ) -> None:
        self._target = target if isinstance(target, int) else None
        self._call = None if isinstance(target, int) else target
        self._backlog = bytearray()
        self._on_error = on_error
        self._failed = False
        self.lost = 0
        self._own: OwnDescriptor | None = None
        self._readiness: Readiness | None = None
        self._poll = select.poll()

    def open(self) -> None:
        """Duplicate the descriptor, if it is one: it is the same file until `close`.

        Raises:
            OSError: it is not open.
        """
        if self._target is not None:
            self._own = _own_descriptor(self._target)
            self._poll.register(self._own.fileno(), select.POLLOUT)

    def close(self) -> None:
        """Take no more, and close the duplicate."""
        if self._readiness is not None:
            self._readiness.close()
            self._readiness = None
        if self._own is not None:
            self._poll.unregister(self._own.fileno())
            self._own.close()
            self._own = None

    def wait(self) -> int:
        """A descriptor that is readable when the open one can be written; open as long."""
        assert self._own is not None  # noqa: S101 - whoever waits has written to it
        if self._readiness is None:
            self._readiness = Readiness()
            self._readiness.follow(self._own.fileno(), select.EPOLLOUT)
        return self._readiness.fileno()

    def write(self, memory: GuestMemory, spans: Spans) -> int:
        """Write pieces of the guest, together at most `PIECE` bytes.

        Returns:
            How many of the bytes are done with, be they taken or lost; 0 means to wait until the
            descriptor can be written.
        """
        size = sum([length for _address, length in spans])
        if self._own is None:
            if self._call is not None:
                self._call(b"".join([memory.read(*span) for span in spans]))
            return size
        return self._write(self._own.fileno(), memory, spans, size) if self._flush() else 0

    def write_now(self, data: bytes) -> None:
        """An emergency write: nobody waits for it, so what does not go out yet is kept here."""
        if self._own is None:
            if self._call is not None:
                self._call(data)
            return
        room = _MAX_BACKLOG - len(self._backlog)
        self._backlog += data[:room]
        self.lost += len(data[room:])
        self._flush()

    def _write(self, fd: int, memory: GuestMemory, spans: Spans, size: int) -> int:
        try:
            done = memory.writev(fd, spans) if self._is_ready() else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(size, error)
            return size
        self._failed = False
        return done

    def _flush(self) -> bool:
        """Write what was kept; whether nothing is left of it."""
        while self._backlog and self._own is not None:
            try:
                done = os.write(self._own.fileno(), self._backlog) if self._is_ready() else 0
            except BlockingIOError:
                done = 0
            except OSError as error:
                done = len(self._backlog)
                self._lose(done, error)
            if not done:
                return False
            del self._backlog[:done]
        return True

    def _is_ready(self) -> bool:
        """Whether the descriptor takes bytes now.

        Raises:
            OSError: it takes none any more, and nothing will tell when it does: a pseudo terminal
                that is full, without anybody at its other side.
        """
        ready = self._poll.poll(0)
        events = ready[0][1] if ready else 0
        if events & select.POLLHUP and not events & select.POLLOUT:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bool(events)

    def _lose(self, size: int, error: OSError) -> None:
        self.lost += size
        if not self._failed:
            self._failed = True
            self._on_error(error)


def _own_descriptor(fd: int) -> OwnDescriptor:
    """One that does not wait, as far as that can be had without changing the caller's.

    A terminal that has room for a byte lets a longer write wait for as long as nobody looks at it.
    So it is opened once more, without waiting; where that is not permitted it is duplicated as all
    else is. (So is a master: to open that once more would make a new terminal.)
    """
    if not os.isatty(fd) or os.fstat(fd).st_rdev == _MASTER:
        return OwnDescriptor(fd)
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        opened = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return OwnDescriptor(fd)
    try:
        return OwnDescriptor(opened)
    finally:
        os.close(opened)
