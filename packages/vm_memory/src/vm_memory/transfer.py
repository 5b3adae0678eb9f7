"""Moving bytes between guest memory and file descriptors, without a bounce buffer.

The kernel reads into, or writes from, the pages of the guest. One call may move less than asked
for: at the end of a file, on a pipe, at the kernel's limit of 2 GiB per call or of IOV_MAX
buffers. EINTR is retried by Python itself (PEP 475).
"""

from __future__ import annotations

import errno
import os

from vm_memory.errors import HostMemoryFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Self, TypeAlias

    from typing_extensions import Buffer

    #: A piece of guest memory: guest physical address and bytes.
    Span: TypeAlias = tuple[int, int]

# <linux/uio.h> UIO_MAXIOV; more buffers in one call are EINVAL.
_IOV_MAX = 1024


class Transfer:
    """Buffers on their way to or from a file descriptor; a context manager, for one use.

    Args:
        buffers: byte views, moved in order; released at the end.
        spans: the guest addresses behind them, for messages.

    Attributes:
        done: bytes moved so far, also when a call has failed.
    """

    __slots__ = ("_buffers", "_spans", "done")

    def __init__(self, buffers: list[memoryview], spans: Sequence[Span]) -> None:
        self._buffers = buffers
        self._spans = spans
        self.done = 0

    def read(self, fd: int, offset: int | None) -> int:
        """Fill the buffers; stop early only at end of file or when reading would block."""
        if offset is None:
            return self._all(lambda part: os.readv(fd, part))
        return self._all(lambda part: os.preadv(fd, part, offset + self.done))

    def write(self, fd: int, offset: int | None) -> int:
        """Write the buffers; stop early only when writing would block."""
        if offset is None:
            return self._all(lambda part: os.writev(fd, part))
        return self._all(lambda part: os.pwritev(fd, part, offset + self.done))

    def once(self, call: Callable[..., int], fd: int, *rest: int) -> int:
        """One system call over all buffers."""
        self.done = call(fd, self._buffers, *rest)
        return self.done

    def receive(
        self, sock: socket.socket, ancbufsize: int, flags: int
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """One message into the buffers."""
        result = sock.recvmsg_into(self._buffers, ancbufsize, flags)
        self.done = result[0]  # with MSG_TRUNC perhaps more than there is room
        return result

    def send(
        self,
        sock: socket.socket,
        ancdata: Iterable[tuple[int, int, Buffer]],
        flags: int,
        address: Any,
    ) -> int:
        """All buffers as one message."""
        if address is None:
            return sock.sendmsg(self._buffers, ancdata, flags)
        return sock.sendmsg(self._buffers, ancdata, flags, address)

    def _all(self, call: Callable[[list[memoryview]], int]) -> int:
        """Continue exactly behind what was really moved."""
        try:
            while self._buffers:
                moved = call(self._buffers[:_IOV_MAX])
                if moved == 0:
                    break
                self.done += moved
                self._drop(moved)
        except BlockingIOError:
            if not self.done:
                raise
        return self.done

    def _drop(self, size: int) -> None:
        """Give up the first `size` bytes."""
        whole = 0
        for buffer in self._buffers:
            if size < len(buffer):
                break
            size -= len(buffer)
            buffer.release()
            whole += 1
        del self._buffers[:whole]
        if size:
            with self._buffers[0] as buffer:
                self._buffers[0] = buffer[size:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # Not left to the garbage collector: a kept traceback would keep the memory borrowed.
        for buffer in self._buffers:
            buffer.release()
        if isinstance(error, OSError) and error.errno == errno.EFAULT:
            size = sum([size for _address, size in self._spans])
            raise HostMemoryFault(
                self._spans[0][0], size, errno.EFAULT, "was their file truncated?"
            ) from error
