"""The region table: guest memory as C code of other packages reads it.

Layout version 1, all words native 64-bit unsigned integers, no padding::

    word 0   layout version (TABLE_VERSION)
    word 1   generation: different for every map of this process, so that C code may cache
             a translation for as long as the generation stays the same
    word 2   number of rows
    word 3   log2 of the bytes that one bit of a dirty bitmap stands for
    then one row per region, sorted by start address, without overlap:
    +0       guest physical address of the first byte
    +1       size in bytes (the region may end at 2^64, so start + size may wrap to 0)
    +2       host address of the first byte; 0: not mapped in this process, no access
    +3       host address of the dirty bitmap; 0: the region does not track

A bitmap is an array of native 64-bit words, as many as it takes for one bit a page: bit i of
word w stands for page 64 * w + i of the region. What C code owes to it:

* mark after the bytes are written, never before, and every page that they touch;
* mark by an atomic OR with release order (``__atomic_fetch_or(word, bits, __ATOMIC_RELEASE)``),
  without a look whether the bit is set already: the look can be older than the write.

A reader must refuse a version that it does not know. A table is also a borrow of every
mapped region in it: while the table lives, closing one of them raises ``BufferError``, so the host
addresses are good for as long as the reader holds the table (or a buffer of it). A reader that
must not keep memory open lets the table go and keeps the words: closing a region needs the GIL,
so whoever holds it from a look at ``region.closed`` (False) to the last access is as safe.
"""

from __future__ import annotations

import struct

from vm_memory.region import DIRTY_PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from vm_memory.region import GuestRegion

#: The layout that this module writes, word 0 of every table.
TABLE_VERSION = 1
#: 64-bit words before the first row.
TABLE_HEADER_WORDS = 4
#: 64-bit words per row.
TABLE_ROW_WORDS = 4


class RegionTable(bytes):
    """The words described above, read-only, through the buffer protocol.

    Attributes:
        generation: word 1 as an integer.
    """

    generation: int
    _borrows: tuple[memoryview, ...]

    @classmethod
    def of(cls, regions: Sequence[GuestRegion], generation: int) -> Self:
        """Describe `regions`, which are sorted, and borrow them.

        Raises:
            ValueError: a region is closed.
        """
        borrows = tuple(_borrow(region) for region in regions)
        words = [TABLE_VERSION, generation, len(regions), DIRTY_PAGE_SIZE.bit_length() - 1]
        for region in regions:
            bitmap = region.dirty.host_address if region.dirty is not None else 0
            words += (region.start_addr, region.size, region.host_address, bitmap)
        table = cls(struct.pack(f"={len(words)}Q", *words))
        table.generation = generation
        table._borrows = borrows
        return table

    @property
    def words(self) -> memoryview:
        """The table as a view of unsigned 64-bit integers."""
        return memoryview(self).cast("Q")


def _borrow(region: GuestRegion) -> memoryview:
    """What keeps the region open: C code marks what it writes, so this view marks nothing."""
    if region.host_address or region.closed:
        return region.slot_memory
    return memoryview(b"")  # nothing of it is mapped here
