"""A small allocator of guest memory for a driver's buffers and indirect tables."""

from __future__ import annotations

from bisect import insort

_ALIGNMENT = 16  # what an indirect descriptor table would like, and buffers do not mind


class Arena:
    """First fit in [start, end), guest physical addresses."""

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._end = end
        self._used: list[tuple[int, int]] = []  # sorted (address, end)

    def allocate(self, size: int) -> int:
        """The address of `size` free bytes.

        Raises:
            MemoryError: no gap is large enough.
        """
        size = max(size, 1)
        candidate = _align(self._start)
        for address, end in self._used:
            if address - candidate >= size:
                break
            candidate = _align(end)
        if candidate + size > self._end:
            raise MemoryError(f"no {size:#x} bytes left for a driver's buffer")
        insort(self._used, (candidate, candidate + size))
        return candidate

    def free(self, address: int) -> None:
        """Give back what `allocate` returned."""
        self._used = [extent for extent in self._used if extent[0] != address]


def _align(address: int) -> int:
    return address + -address % _ALIGNMENT
