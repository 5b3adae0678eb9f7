"""Whole transfers between file descriptors and lists of buffers, without a bounce buffer.

One readv/writev call may move less than asked for: at the end of a file, on a pipe, at the
kernel's limit of 2 GiB per call or of IOV_MAX buffers. These loops continue exactly behind
the bytes that were really moved. EINTR is retried by Python itself (PEP 475).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# <linux/uio.h> UIO_MAXIOV; more buffers in one call are EINVAL.
_IOV_MAX = 1024


def read_buffers(fd: int, buffers: list[memoryview], offset: int | None) -> int:
    """Fill `buffers` from `fd`; stop early only at end of file or when reading would block.

    Args:
        fd: open for reading.
        buffers: writable byte views, filled in order; the list is consumed.
        offset: position in the file in bytes; None reads at (and moves) its own position.

    Returns:
        Bytes read.

    Raises:
        OSError: as readv(2); BlockingIOError only if nothing was read before.
    """
    if offset is None:
        return _transfer(buffers, lambda part, _done: os.readv(fd, part))
    return _transfer(buffers, lambda part, done: os.preadv(fd, part, offset + done))


def write_buffers(fd: int, buffers: list[memoryview], offset: int | None) -> int:
    """Write `buffers` to `fd`; stop early only when writing would block.

    Args:
        fd: open for writing.
        buffers: byte views, written in order; the list is consumed.
        offset: position in the file in bytes; None writes at (and moves) its own position.

    Returns:
        Bytes written.

    Raises:
        OSError: as writev(2); BlockingIOError only if nothing was written before.
    """
    if offset is None:
        return _transfer(buffers, lambda part, _done: os.writev(fd, part))
    return _transfer(buffers, lambda part, done: os.pwritev(fd, part, offset + done))


def _transfer(buffers: list[memoryview], call: Callable[[list[memoryview], int], int]) -> int:
    done = 0
    try:
        while buffers:
            moved = call(buffers[:_IOV_MAX], done)
            if moved == 0:
                break
            done += moved
            _drop(buffers, moved)
    except BlockingIOError:
        if not done:
            raise
    finally:
        # Not left to the garbage collector: a kept traceback would keep the memory borrowed.
        for buffer in buffers:
            buffer.release()
    return done


def _drop(buffers: list[memoryview], size: int) -> None:
    """Remove the first `size` bytes from `buffers`."""
    whole = 0
    for buffer in buffers:
        if size < len(buffer):
            break
        size -= len(buffer)
        whole += 1
    del buffers[:whole]
    if size:
        buffers[0] = buffers[0][size:]
