"""Guest memory as a whole: an ordered set of regions, addressed by guest physical address.

Addresses are plain integers, sizes are bytes. Every access is checked against the regions;
one that crosses from a region into an adjacent one behaves as if there were no border. The
accesses themselves are in `vm_memory._core`; here is what is made of them.
"""

from __future__ import annotations

import itertools

from vm_memory import _core
from vm_memory.errors import MemoryRegionOverlap, NoSuchRegion
from vm_memory.region import GuestRegion
from vm_memory.table import RegionTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Self

    from typing_extensions import Buffer

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
        given = tuple(regions)
        for region in given:
            if not isinstance(region, GuestRegion):
                raise TypeError(f"{region!r} is no GuestRegion: from_ranges takes numbers")
        ordered = tuple(sorted(given, key=lambda region: region.start_addr))
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
        ranges: Iterable[tuple[int, int]],
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

    # Messages, without a bounce buffer

    def recvmsg(
        self,
        sock: socket.socket,
        spans: Iterable[tuple[int, int]],
        ancbufsize: int = 0,
        flags: int = 0,
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
            OSError: as recvmsg(2); EFAULT where the file behind a region was truncated.
        """
        spans = list(spans)
        left = sum([size for _address, size in spans])
        buffers = self._windows(spans, _core.UNTRACKED)
        try:
            result = sock.recvmsg_into(buffers, ancbufsize, flags)
            left = min(result[0], left)  # with MSG_TRUNC the message may be longer
        except (BlockingIOError, InterruptedError):
            left = 0
            raise
        finally:  # a call that failed may have written before
            _release(buffers)
            for address, size in spans:
                self.mark_dirty(address, max(min(size, left), 0))
                left -= size
        return result

    def sendmsg(
        self,
        sock: socket.socket,
        spans: Iterable[tuple[int, int]],
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
            OSError: as sendmsg(2); EFAULT where the file behind a region was truncated.
        """
        rest = (ancdata, flags) if address is None else (ancdata, flags, address)
        buffers = self._windows(spans, _core.READ_ONLY)
        try:
            return sock.sendmsg(buffers, *rest)
        finally:
            _release(buffers)

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


def _release(views: list[memoryview]) -> None:
    """Not left to the garbage collector: a kept traceback would keep the memory borrowed."""
    for view in views:
        view.release()
