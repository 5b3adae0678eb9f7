"""Guest memory as a whole: an ordered set of regions, addressed by guest physical address.

Addresses are plain integers, sizes are bytes. Every access is checked against the regions;
one that crosses from a region into an adjacent one behaves as if there were no border.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right

from vm_memory.errors import (
    InvalidGuestAddress,
    MemoryRegionOverlap,
    MisalignedAccess,
    NoSuchRegion,
    PartialBuffer,
)
from vm_memory.region import GuestRegion
from vm_memory.table import RegionTable
from vm_memory.transfer import read_buffers, write_buffers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

_generations = itertools.count(1)


class GuestMemory:
    """An immutable, sorted map of guest physical addresses to regions.

    `insert` and `remove` return a new map that shares the regions, so a reader keeps a
    consistent map while another one is made. Regions may be given in any order.

    Rules of every access of `size` bytes at `address`:

    * `size` 0 touches nothing and succeeds at any address; a negative size is a ValueError;
    * first byte in no region: `InvalidGuestAddress`, nothing transferred;
    * a later byte in no region: `PartialBuffer`; `write` and `read_into` have transferred the
      bytes before it, everything else nothing;
    * the last byte of the address space, 2^64 - 1, is as good as any other;
    * after `close`: ValueError, as for a closed file.

    Raises:
        MemoryRegionOverlap: two of `regions` share an address.
    """

    __slots__ = ("_generation", "_regions", "_starts")

    def __init__(self, regions: Iterable[GuestRegion] = ()) -> None:
        self._regions = tuple(sorted(regions, key=lambda region: region.start_addr))
        self._starts = [region.start_addr for region in self._regions]
        self._generation = next(_generations)
        for lower, upper in itertools.pairwise(self._regions):
            if upper.start_addr <= lower.last_addr:
                raise MemoryRegionOverlap(
                    upper.start_addr, upper.size, lower.start_addr, lower.size
                )

    @classmethod
    def from_ranges(
        cls, ranges: Iterable[tuple[int, int]], *, huge_pages_advice: bool = False
    ) -> Self:
        """Anonymous private memory for each (start, size), zeroed and committed when touched.

        Args:
            ranges: guest physical start address and bytes of each region.
            huge_pages_advice: ask the host for transparent huge pages.

        Raises:
            InvalidRegion: a range is empty or does not fit below 2^64.
            MemoryRegionOverlap: two ranges share an address.
            MappingFailed: the host has no room for it.
        """
        return cls(
            [
                GuestRegion.anonymous(start, size, huge_pages_advice=huge_pages_advice)
                for start, size in ranges
            ]
        )

    # The map

    @property
    def regions(self) -> tuple[GuestRegion, ...]:
        """The regions, sorted by address."""
        return self._regions

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
        if not self._regions:
            raise NoSuchRegion(0, 0)
        return self._regions[-1].last_addr

    @property
    def table(self) -> RegionTable:
        """A new region table for C code; while it lives it borrows every region."""
        return RegionTable.of(self._regions, self._generation)

    def insert(self, region: GuestRegion) -> GuestMemory:
        """A new map with `region` added; this one stays as it is.

        Raises:
            MemoryRegionOverlap: the new region shares an address with one of the map.
        """
        return GuestMemory((*self._regions, region))

    def remove(self, start: int, size: int) -> tuple[GuestMemory, GuestRegion]:
        """A new map without the region of exactly this range, and that region, still open.

        Raises:
            NoSuchRegion: no region has exactly this start and size.
        """
        region = self.find_region(start)
        if region is None or (region.start_addr, region.size) != (start, size):
            raise NoSuchRegion(start, size)
        return GuestMemory(other for other in self._regions if other is not region), region

    def find_region(self, address: int) -> GuestRegion | None:
        """The region that holds `address`, or None."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            region = self._regions[index]
            if address <= region.last_addr:
                return region
        return None

    def check_range(self, address: int, size: int) -> bool:
        """Whether all of [address, address + size) is memory (adjacent regions count as one)."""
        _check_size(size)
        position = address
        while position < address + size:
            region = self.find_region(position)
            if region is None:
                return False
            position = region.last_addr + 1
        return True

    # Bytes

    def read(self, address: int, size: int) -> bytes:
        """Copy `size` bytes out of the guest."""
        region = self.find_region(address)
        if region is not None and size > 0:
            offset = address - region.start_addr
            end = offset + size
            if end <= region.size:
                return region.mapping[offset:end]
        pieces = self._all_pieces(address, size)
        return b"".join([region.mapping[start:end] for region, start, end in pieces])

    def read_into(self, address: int, buffer: Buffer) -> None:
        """Copy guest bytes into `buffer`, filling it."""
        with memoryview(buffer) as raw, raw.cast("B") as target:
            done = 0
            for region, start, end in self._pieces(address, len(target)):
                target[done : done + end - start] = region.memory[start:end]
                done += end - start
            if done != len(target):
                raise PartialBuffer(address, len(target), done)

    def write(self, address: int, data: Buffer) -> None:
        """Copy all bytes of `data` (C-contiguous, any item format) into the guest.

        `data` may be a view of this very memory; overlapping ranges copy as by ``memmove``.
        """
        if isinstance(data, (bytes, bytearray)) and data:  # these cannot be guest memory
            region = self.find_region(address)
            if region is not None:
                offset = address - region.start_addr
                end = offset + len(data)
                if end <= region.size:
                    region.mapping[offset:end] = data
                    return
        with memoryview(data) as raw, raw.cast("B") as source:
            done = 0
            for region, start, end in self._pieces(address, len(source)):
                region.memory[start:end] = source[done : done + end - start]
                done += end - start
            if done != len(source):
                raise PartialBuffer(address, len(source), done)

    def view(self, address: int, size: int) -> memoryview:
        """The bytes themselves, writable, without a copy; they must lie in one region.

        A view is a borrow: the region cannot be closed while it lives.

        Raises:
            PartialBuffer: the range leaves its region (use `iovec` to cross into the next).
        """
        _check_size(size)
        region = self.find_region(address)
        if region is None:
            if size == 0:
                return memoryview(bytearray())
            raise InvalidGuestAddress(address, size)
        offset = address - region.start_addr
        if offset + size > region.size:
            raise PartialBuffer(address, size, region.size - offset)
        return region.memory[offset : offset + size]

    def iovec(self, address: int, size: int) -> list[memoryview]:
        """Writable views of the range, one per region that it touches, without a copy."""
        pieces = self._all_pieces(address, size)
        return [region.memory[start:end] for region, start, end in pieces]

    # Integers

    def load(self, address: int, size: int) -> int:
        """The unsigned little-endian integer of `size` bytes (1, 2, 4 or 8) at `address`.

        `address` must be a multiple of `size` counted from the start of its region. CPython
        reads it with one fixed-size copy of `size` bytes, which an optimising compiler is
        expected to make one machine load. CPython promises neither that nor an order between
        accesses, so this is no synchronisation with other threads or a running guest.

        Raises:
            MisalignedAccess: the address is not aligned.
            PartialBuffer: the integer reaches beyond its region.
        """
        region, index = self._integer(address, size)
        return region.integers[size][index]

    def store(self, address: int, value: int, size: int) -> None:
        """Write `value` as an unsigned little-endian integer of `size` bytes; see `load`.

        Raises:
            MisalignedAccess: the address is not aligned.
            PartialBuffer: the integer reaches beyond its region.
            ValueError: `value` does not fit.
        """
        region, index = self._integer(address, size)
        try:
            region.integers[size][index] = value
        except ValueError:
            if region.closed:
                raise
            raise ValueError(f"{value:#x} is no unsigned integer of {size} bytes") from None

    # Files

    def read_from_fd(self, address: int, fd: int, size: int, offset: int | None = None) -> int:
        """Read `size` bytes from `fd` straight into the guest.

        Short reads are continued; only end of file (or an fd that would block) ends early.
        The range is checked first: on a guest access error nothing was read from `fd`.
        For packet sockets and taps, where one read is one packet, use
        ``os.readv(fd, memory.iovec(address, size))``.

        Args:
            address: guest physical address of the first byte.
            fd: file descriptor open for reading.
            size: bytes.
            offset: position in the file; None reads at (and moves) the file's own position.

        Returns:
            Bytes read.

        Raises:
            OSError: as readv(2); BlockingIOError only if nothing was read.
        """
        return read_buffers(fd, self.iovec(address, size), offset)

    def write_to_fd(self, address: int, fd: int, size: int, offset: int | None = None) -> int:
        """Write `size` bytes of the guest straight to `fd`; the mirror of `read_from_fd`.

        Returns:
            Bytes written, less than `size` only for an fd that would block.

        Raises:
            OSError: as writev(2); BlockingIOError only if nothing was written.
        """
        return write_buffers(fd, self.iovec(address, size), offset)

    # Life cycle

    def close(self) -> None:
        """Close every region, also for other maps that share them.

        Raises:
            BufferError: some regions are still borrowed; they stay open, the others are
                closed, and `close` may be called again.
        """
        borrowed = []
        for region in self._regions:
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
        return f"<GuestMemory {list(self._regions)}>"

    # The general paths. They hold no view when they raise: a traceback that somebody keeps
    # would keep it alive, and the memory could not be closed.

    def _pieces(self, address: int, size: int) -> list[tuple[GuestRegion, int, int]]:
        """(region, start, end) offsets of the range up to its first hole; an error if empty."""
        _check_size(size)
        pieces: list[tuple[GuestRegion, int, int]] = []
        position = address
        end_address = address + size
        index = bisect_right(self._starts, address) - 1
        while position < end_address and 0 <= index < len(self._regions):
            region = self._regions[index]
            start = position - region.start_addr
            if not 0 <= start < region.size:
                break
            end = min(end_address - region.start_addr, region.size)
            pieces.append((region, start, end))
            position = region.start_addr + end
            index += 1
        if size and not pieces:
            raise InvalidGuestAddress(address, size)
        return pieces

    def _all_pieces(self, address: int, size: int) -> list[tuple[GuestRegion, int, int]]:
        """As `_pieces`, of the whole range; PartialBuffer if it has a hole."""
        pieces = self._pieces(address, size)
        completed = sum([end - start for _region, start, end in pieces])
        if completed != size:
            raise PartialBuffer(address, size, completed)
        return pieces

    def _integer(self, address: int, size: int) -> tuple[GuestRegion, int]:
        """The region that holds the whole integer, and the integer's index in it."""
        region = self.find_region(address)
        if region is None:
            raise InvalidGuestAddress(address, size)
        if size not in region.integers:
            raise ValueError(f"an integer has 1, 2, 4 or 8 bytes, not {size}")
        offset = address - region.start_addr
        if offset % size:
            raise MisalignedAccess(address, size)
        if offset + size > region.size:
            raise PartialBuffer(address, size, region.size - offset)
        return region, offset // size


def _check_size(size: int) -> None:
    if size < 0:
        raise ValueError(f"a size cannot be negative, as {size} is")
