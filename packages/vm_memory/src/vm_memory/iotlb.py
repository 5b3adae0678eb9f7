"""Translations from I/O virtual addresses (IOVA) to guest physical ones, as a map of ranges.

What a vhost-user backend keeps of the IOTLB messages that it gets, or a virtual IOMMU of the
guest's mapping requests. Ranges are exact to the byte: there is no granule and no eviction, so
whoever takes mappings from a guest bounds their number (``len(iotlb)``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from enum import IntFlag
from operator import index

from vm_memory.addresses import ADDRESS_LIMIT, check_size
from vm_memory.translation_errors import CannotResolve, InvalidMapping


class Permissions(IntFlag):
    """What a device may do with a range, or wants to; combine with ``|``."""

    NO = 0
    READ = 1
    WRITE = 2
    READ_WRITE = 3


class Iotlb:
    """An ordered set of mappings that do not overlap.

    >>> iotlb = Iotlb()
    >>> iotlb.set_mapping(0x1000, 0x80000, 0x2000, Permissions.READ_WRITE)
    >>> iotlb.invalidate_mapping(0x1800, 0x400)
    >>> [(hex(gpa), hex(size)) for gpa, size in iotlb.lookup(0x1c00, 0x100, Permissions.WRITE)]
    [('0x80c00', '0x100')]
    >>> iotlb.lookup(0x1700, 0x200, Permissions.READ)
    Traceback (most recent call last):
        ...
    vm_memory.translation_errors.CannotResolve: no reading of 0x200 bytes at I/O address 0x1700: 0x1800-0x18ff is not mapped

    Readers need no lock: every change replaces the map as a whole, so that a `lookup` sees it
    either before or after. Changes must not run at the same time as other changes.

    rust-vmm's vm-memory 0.18 has the same map; here, ranges up to 2^64 and empty ones are exact
    (there, ``iova + length`` may wrap and an empty range panics), and what adjoins in both
    address spaces is one piece, however many mappings it came in.
    """  # noqa: E501 - the error of the example is one line

    __slots__ = ("_map",)

    def __init__(self) -> None:
        # Start addresses, and (start, end, guest physical address, permissions) in that order.
        self._map: tuple[list[int], list[tuple[int, int, int, int]]] = ([], [])

    def set_mapping(self, iova: int, gpa: int, size: int, permissions: Permissions) -> None:
        """Map `size` bytes at `iova` to `gpa`; what was mapped there before is replaced.

        Zero bytes change nothing. With `Permissions.NO`, accesses fail as not permitted instead
        of as not mapped.

        A change copies the map, so it takes time in proportion to the number of mappings.

        Raises:
            InvalidMapping: one of the ranges is not within the 64-bit address space.
        """
        iova, gpa, size = index(iova), index(gpa), index(size)
        if not 0 <= int(permissions) <= int(Permissions.READ_WRITE):
            raise ValueError(f"{permissions!r} are no permissions")
        for name, start in (("I/O", iova), ("guest physical", gpa)):
            if size < 0 or start < 0 or start + size > ADDRESS_LIMIT:
                raise InvalidMapping(iova, gpa, size, f"the {name} range is not below 2^64")
        self._replace(iova, iova + size, [(iova, iova + size, gpa, int(permissions))])

    def invalidate_mapping(self, iova: int, size: int) -> None:
        """Forget what is mapped in [iova, iova + size); what reaches beyond keeps its rest."""
        check_size(size)
        self._replace(iova, iova + size, [])

    def invalidate_all(self) -> None:
        """Forget everything."""
        self._map = ([], [])

    def lookup(self, iova: int, size: int, access: Permissions) -> list[tuple[int, int]]:
        """The (guest physical address, size) pieces that a range consists of, in order.

        Zero bytes have no pieces, wherever they are.

        Raises:
            CannotResolve: a part of the range is not mapped, or does not permit `access`.
        """
        check_size(size)
        wanted = int(access)
        position, end = iova, iova + size
        pieces: list[tuple[int, int]] = []
        misses: list[tuple[int, int]] = []
        failures: list[tuple[int, int]] = []
        starts, mappings = self._map
        first, last = _slice(starts, mappings, iova, end)
        for start, stop, gpa, permissions in mappings[first:last]:
            low, high = max(start, iova), min(stop, end)
            if low > position:
                misses.append((position, low - position))
            if permissions & wanted == wanted:
                _extend(pieces, gpa + low - start, high - low)
            else:
                _extend(failures, low, high - low)
            position = high
        if position < end:
            misses.append((position, end - position))
        if misses or failures:
            raise CannotResolve(iova, size, wanted, tuple(misses), tuple(failures))
        return pieces

    #: A filled IOTLB is a whole `Iommu`: nobody else knows more.
    translate = lookup

    def __len__(self) -> int:
        """The number of separate mappings."""
        return len(self._map[0])

    def _replace(self, start: int, end: int, new: list[tuple[int, int, int, int]]) -> None:
        """Cut [start, end) out of the map and put `new` there."""
        if start == end:
            return
        starts, mappings = self._map
        first, last = _slice(starts, mappings, start, end)
        cut = mappings[first:last]
        left = [(low, start, gpa, rights) for low, _, gpa, rights in cut[:1] if low < start]
        right = [
            (end, high, gpa + end - low, rights)
            for low, high, gpa, rights in cut[-1:]
            if end < high
        ]
        changed = [*mappings[:first], *left, *new, *right, *mappings[last:]]
        self._map = ([mapping[0] for mapping in changed], changed)


def _slice(
    starts: list[int], mappings: list[tuple[int, int, int, int]], start: int, end: int
) -> tuple[int, int]:
    """The indices [first, last) of the mappings that share an address with [start, end)."""
    if start == end:
        return 0, 0
    first = bisect_right(starts, start)
    if first and mappings[first - 1][1] > start:
        first -= 1
    return first, bisect_left(starts, end)


def _extend(pieces: list[tuple[int, int]], start: int, size: int) -> None:
    """Append a piece, or lengthen the last one if it ends where this one begins."""
    if pieces:
        last, length = pieces[-1]
        if last + length == start:
            pieces[-1] = (last, length + size)
            return
    pieces.append((start, size))
