"""Guest memory as a whole: an ordered set of regions, addressed by guest physical address.

Addresses are plain integers, sizes are bytes. Every access is checked against the regions;
one that crosses from a region into an adjacent one behaves as if there were no border. The
accesses themselves are in `vm_memory._core`; here is what is made of them.
"""

from __future__ import annotations

import itertools
import os

from vm_memory import _core
from vm_memory.dirty import dirty_runs
from vm_memory.errors import MemoryRegionOverlap, NoSuchRegion
from vm_memory.region import DIRTY_PAGE_SIZE, GuestRegion
from vm_memory.table import RegionTable
from vm_memory.transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from typing_extensions import Buffer

    from vm_memory.transfer import Span

    Moved = TypeVar("Moved")

_generations = itertools.count(1)


class GuestMemory(_core.MemoryMap):
    """An immutable, sorted map of guest physical addresses to regions.

    `insert` and `remove` return a new map that shares the regions, so a reader keeps a
    consistent map while another one is made. Regions may be given in any order.

    Rules of every access of `size` bytes at `address`:

    * `size` 0 touches nothing and succeeds at any address; a negative size is a ValueError;
    * first byte in no region: `InvalidGuestAddress`, nothing transferred;
    * a later byte in no region: `PartialBuffer`; `write` and `read_into` have transferred the
      bytes before it, everything else nothing;
    * a region that is not mapped in this process is a hole, except that an access that begins
      in it is `HostAddressNotAvailable`;
    * the last byte of the address space, 2^64 - 1, is as good as any other;
    * after `close`: ValueError, as for a closed file.

    Every write marks the dirty bitmap of a region that has one, after the bytes are written.

    Raises:
        MemoryRegionOverlap: two of `regions` share an address.
    """

    __slots__ = ("_generation",)

    _generation: int

    def __new__(cls, regions: Iterable[GuestRegion] = ()) -> Self:  # noqa: D102 - see the class
        ordered = tuple(sorted(regions, key=lambda region: region.start_addr))
        for lower, upper in itertools.pairwise(ordered):
            if upper.start_addr <= lower.last_addr:
                raise MemoryRegionOverlap(
                    upper.start_addr, upper.size, lower.start_addr, lower.size
                )
        memory = super().__new__(cls, ordered)
        memory._generation = next(_generations)
        return memory

    @classmethod
    def from_ranges(
        cls,
        ranges: Iterable[Span],
        *,
        huge_pages_advice: bool = False,
        track_dirty: bool = False,
    ) -> Self:
        """Anonymous private memory for each (start, size), zeroed and committed when touched.

        Args:
            ranges: guest physical start address and bytes of each region.
            huge_pages_advice: ask the host for transparent huge pages.
            track_dirty: keep a bitmap of the pages that are written to.

        Raises:
            InvalidRegion: a range is empty or does not fit below 2^64.
            MemoryRegionOverlap: two ranges share an address.
            MappingFailed: the host has no room for it.
        """
        return cls(
            [
                GuestRegion.anonymous(
                    start, size, huge_pages_advice=huge_pages_advice, track_dirty=track_dirty
                )
                for start, size in ranges
            ]
        )

    # The map

    @property
    def generation(self) -> int:
        """A number that no other map of this process has."""
        return self._generation

    @property
    def last_addr(self) -> int:
        """The highest guest physical address that is memory.

        Raises:
            NoSuchRegion: the map is empty.
        """
        if not self.regions:
            raise NoSuchRegion(0, 0)
        return self.regions[-1].last_addr

    @property
    def table(self) -> RegionTable:
        """A new region table for C code; while it lives it borrows every region."""
        return RegionTable.of(self.regions, self._generation)

    def insert(self, region: GuestRegion) -> GuestMemory:
        """A new map with `region` added; this one stays as it is.

        Raises:
            MemoryRegionOverlap: the new region shares an address with one of the map.
        """
        return GuestMemory((*self.regions, region))

    def remove(self, start: int, size: int) -> tuple[GuestMemory, GuestRegion]:
        """A new map without the region of exactly this range, and that region, still open.

        Raises:
            NoSuchRegion: no region has exactly this start and size.
        """
        region = self.find_region(start)
        if region is None or (region.start_addr, region.size) != (start, size):
            raise NoSuchRegion(start, size)
        return GuestMemory(other for other in self.regions if other is not region), region

    def get_and_reset_dirty(self) -> list[Span]:
        """What was written since the last call, as (address, bytes), sorted; whole pages.

        Each mark of each region is told once, and adjacent pages are one piece, also across
        regions. What is under a live writable view is in every answer. Regions without a
        bitmap have nothing to tell.
        """
        spans: list[Span] = []
        for region in self.regions:
            if region.dirty is None:
                continue
            for first, count in dirty_runs(region.dirty.get_and_reset()):
                start = region.start_addr + first * DIRTY_PAGE_SIZE
                end = min(start + count * DIRTY_PAGE_SIZE, region.last_addr + 1)
                if spans and sum(spans[-1]) == start:
                    start = spans.pop()[0]
                spans.append((start, end - start))
        return spans

    # Files and sockets, without a bounce buffer

    def read_from_fd(self, address: int, fd: int, size: int, offset: int | None = None) -> int:
        """Read `size` bytes from `fd` straight into the guest.

        Short reads are continued; only end of file (or an fd that would block) ends early.
        The range is checked first: on a guest access error nothing was read from `fd`.

        Args:
            address: guest physical address of the first byte.
            fd: file descriptor open for reading.
            size: bytes.
            offset: position in the file; None reads at (and moves) the file's own position.

        Returns:
            Bytes read.

        Raises:
            OSError: as readv(2); BlockingIOError only if nothing was read.
            HostMemoryFault: the file behind the region was truncated.
        """
        return self._into_guest([(address, size)], lambda moving: moving.read(fd, offset))

    def write_to_fd(self, address: int, fd: int, size: int, offset: int | None = None) -> int:
        """Write `size` bytes of the guest straight to `fd`; the mirror of `read_from_fd`.

        Returns:
            Bytes written, less than `size` only for an fd that would block.

        Raises:
            OSError: as writev(2); BlockingIOError only if nothing was written.
            HostMemoryFault: the file behind the region was truncated.
        """
        return self._out_of_guest([(address, size)], lambda moving: moving.write(fd, offset))

    def readv(self, fd: int, spans: Sequence[Span], offset: int | None = None) -> int:
        """One system call that reads into several pieces of the guest, in order.

        For what must not be continued: where one read is one packet (a TAP), or where the
        caller has a policy for short reads. All pieces are checked first.

        Args:
            fd: file descriptor open for reading.
            spans: (address, bytes) of each piece; together at most 1024 pieces of regions.
            offset: position in the file; None reads at (and moves) the file's own position.

        Returns:
            Bytes read.

        Raises:
            OSError: as readv(2) and preadv(2).
            HostMemoryFault: the file behind a region was truncated.
        """
        if offset is None:
            return self._into_guest(spans, lambda moving: moving.once(os.readv, fd))
        return self._into_guest(spans, lambda moving: moving.once(os.preadv, fd, offset))

    def writev(self, fd: int, spans: Sequence[Span], offset: int | None = None) -> int:
        """One system call that writes several pieces of the guest; the mirror of `readv`.

        Returns:
            Bytes written.

        Raises:
            OSError: as writev(2) and pwritev(2).
            HostMemoryFault: the file behind a region was truncated.
        """
        if offset is None:
            return self._out_of_guest(spans, lambda moving: moving.once(os.writev, fd))
        return self._out_of_guest(spans, lambda moving: moving.once(os.pwritev, fd, offset))

    def recvmsg(
        self, sock: socket.socket, spans: Sequence[Span], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """Receive one message into several pieces of the guest, in order.

        Args:
            sock: the socket.
            spans: (address, bytes) of each piece; together at most 1024 pieces of regions.
            ancbufsize: bytes for ancillary data, see ``socket.CMSG_SPACE``.
            flags: as for ``socket.recvmsg``.

        Returns:
            As ``socket.recvmsg_into``: bytes, ancillary data, flags of the message, its sender.

        Raises:
            OSError: as recvmsg(2).
            HostMemoryFault: the file behind a region was truncated.
        """
        return self._into_guest(spans, lambda moving: moving.receive(sock, ancbufsize, flags))

    def sendmsg(
        self,
        sock: socket.socket,
        spans: Sequence[Span],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: Any = None,
    ) -> int:
        """Send several pieces of the guest as one message; see `recvmsg`.

        Args:
            sock: the socket.
            spans: (address, bytes) of each piece; together at most 1024 pieces of regions.
            ancdata: as for ``socket.sendmsg``.
            flags: as for ``socket.sendmsg``.
            address: where to, for a socket that is not connected.

        Returns:
            Bytes sent.

        Raises:
            OSError: as sendmsg(2).
            HostMemoryFault: the file behind a region was truncated.
        """
        return self._out_of_guest(spans, lambda moving: moving.send(sock, ancdata, flags, address))

    def _into_guest(self, spans: Sequence[Span], move: Callable[[Transfer], Moved]) -> Moved:
        """Let `move` write to `spans`, and mark as dirty what it has really written."""
        with Transfer(self._windows(spans, _core.UNTRACKED), spans) as moving:
            try:
                return move(moving)
            finally:
                done = moving.done
                for address, size in spans:
                    if done > 0:
                        self.mark_dirty(address, min(size, done))
                    done -= size

    def _out_of_guest(self, spans: Sequence[Span], move: Callable[[Transfer], Moved]) -> Moved:
        with Transfer(self._windows(spans, _core.READ_ONLY), spans) as moving:
            return move(moving)

    # Life cycle

    def close(self) -> None:
        """Close every region, also for other maps that share them.

        Raises:
            BufferError: some regions are still borrowed; they stay open, the others are
                closed, and `close` may be called again.
        """
        borrowed = []
        for region in self.regions:
            try:
                region.close()
            except BufferError:
                borrowed.append(region)
        if borrowed:
            raise BufferError(f"still borrowed: {borrowed}; release their views first")

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
        return f"<GuestMemory {list(self.regions)}>"
