"""What a block device needs of the thing that keeps its bytes.

Offsets and sizes are bytes. Every method blocks until it is done; a failure of the host is an
`OSError`, which becomes VIRTIO_BLK_S_IOERR and nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol, TypeGuard

    from vm_memory import GuestMemory
else:
    Protocol = object


class DiskSizes:
    """The sizes that the driver should know to make requests that the host likes.

    Args:
        size: bytes of the disk, a multiple of `block_size`.
        block_size: bytes of the unit in which the driver shall read and write; a power of 2 from
            512 on.
        physical_block_size: bytes of the unit in which the medium writes; a power of 2, at least
            `block_size`.
    """

    __slots__ = ("block_size", "physical_block_size", "size")

    def __init__(self, size: int, block_size: int = 512, physical_block_size: int = 4096) -> None:
        self.size = size
        self.block_size = block_size
        self.physical_block_size = max(physical_block_size, block_size)


class Backend(Protocol):
    """Keeps the bytes of a disk."""

    @property
    def sizes(self) -> DiskSizes:
        """Sizes, the same as long as the backend lives."""

    @property
    def read_only(self) -> bool:
        """Whether nothing may be written."""

    @property
    def can_discard(self) -> bool:
        """Whether `discard` frees anything."""

    def read(self, memory: GuestMemory, spans: Sequence[tuple[int, int]], offset: int) -> None:
        """Fill the pieces (address, size) of the guest, in order, from `offset` on.

        Raises:
            OSError: not all of them could be filled; some may be.
        """

    def write(self, memory: GuestMemory, spans: Sequence[tuple[int, int]], offset: int) -> None:
        """Write the pieces (address, size) of the guest, in order, from `offset` on.

        Raises:
            OSError: not all of them could be written; some may be.
        """

    def flush(self) -> None:
        """Return when everything that was written survives the loss of the host's power.

        Raises:
            OSError: some of it may not.
        """

    def discard(self, offset: int, size: int) -> None:
        """Forget a range: what it reads from now on does not matter."""

    def write_zeroes(self, offset: int, size: int, *, unmap: bool) -> None:
        """Let a range read as zeros; with `unmap` its room may be given back to the host."""

    def close(self) -> None:
        """Give everything back; may be called again."""


class FileBackend(Backend, Protocol):
    """A backend whose bytes are those of a file, in the same places.

    Then reads and writes may pass `read` and `write` by: preadv(2) and pwritev(2) do the same. What
    they do not do at once and in full, an error or the half of a request, is asked of the methods,
    from its beginning. Who changes what `read` or `write` does has no `transfer_fd`, or gives -1.
    """

    @property
    def transfer_fd(self) -> int:
        """The open file, -1 if there is none now; asked for again and again.

        A device duplicates it when it is activated, and until it is reset uses that file, but only
        while this is not -1: what becomes of the number meanwhile does not matter.
        """


def is_file(backend: Backend) -> TypeGuard[FileBackend]:
    """Whether the backend names a file."""
    return hasattr(backend, "transfer_fd")
