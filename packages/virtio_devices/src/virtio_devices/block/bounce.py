"""Moving data through aligned memory, where O_DIRECT refuses the guest's own buffers.

Linux wants them aligned to the disk's blocks (open(2)); a guest need not know.
"""

from __future__ import annotations

import errno
import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vm_memory import GuestMemory

    Spans = Sequence[tuple[int, int]]

_PORTION = 1 << 20  # what the host holds of a request at a time; whole blocks of any size


def read_bounced(fd: int, memory: GuestMemory, spans: Spans, offset: int) -> None:
    """Fill pieces of the guest from a file.

    Raises:
        OSError: as preadv(2); EIO at the end of the file.
    """
    for part, size in _portions(spans):
        with mmap.mmap(-1, size) as pages:
            if os.preadv(fd, [pages], offset) != size:
                raise OSError(errno.EIO, "the file ends before the disk does")
            position = 0
            for address, length in part:
                memory.write(address, pages[position : position + length])
                position += length
        offset += size


def write_bounced(fd: int, memory: GuestMemory, spans: Spans, offset: int) -> None:
    """Write pieces of the guest to a file.

    Raises:
        OSError: as pwrite(2); EIO if only a part was written.
    """
    for part, size in _portions(spans):
        with mmap.mmap(-1, size) as pages:
            pages[:] = b"".join([memory.read(*span) for span in part])
            if os.pwrite(fd, pages, offset) != size:
                raise OSError(errno.EIO, "the host wrote a part of a request")
        offset += size


def _portions(spans: Spans) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Cut pieces into groups of at most one portion, each with its bytes."""
    part: list[tuple[int, int]] = []
    room = _PORTION
    for start, length in spans:
        address, size = start, length
        while size:
            taken = min(size, room)
            part.append((address, taken))
            address, size, room = address + taken, size - taken, room - taken
            if not room:
                yield part, _PORTION
                part, room = [], _PORTION
    if part:
        yield part, _PORTION - room
