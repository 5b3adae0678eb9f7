"""The region table: guest memory as C code of other packages reads it.

Layout version 1, all words native 64-bit unsigned integers, no padding::

    word 0   layout version (TABLE_VERSION)
    word 1   generation: different for every map of this process, so that C code may cache
             a translation for as long as the generation stays the same
    word 2   number of rows
    word 3   log2 of the bytes that one bit of a dirty bitmap stands for; 0: no bitmaps
    then one row per region, sorted by start address, without overlap:
    +0       guest physical address of the first byte
    +1       size in bytes (the region may end at 2^64, so start + size may wrap to 0)
    +2       host address of the first byte
    +3       host address of the dirty bitmap; 0: the region has none

A reader must refuse a version that it does not know. A table is also a borrow of every
region in it: while the table lives, closing one of them raises ``BufferError``, so the host
addresses are good for as long as the reader holds the table (or a buffer of it).
"""

from __future__ import annotations

import struct

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
        borrows = tuple(region.memory for region in regions)
        words = [TABLE_VERSION, generation, len(regions), 0]
        for region in regions:
            words += (region.start_addr, region.size, region.host_address, 0)
        table = cls(struct.pack(f"={len(words)}Q", *words))
        table.generation = generation
        table._borrows = borrows
        return table

    @property
    def words(self) -> memoryview:
        """The table as a view of unsigned 64-bit integers."""
        return memoryview(self).cast("Q")
