"""RegionTable: the layout that C code of other packages reads."""

from __future__ import annotations

import ctypes
import mmap
import struct

import pytest

from vm_memory import (
    TABLE_HEADER_WORDS,
    TABLE_ROW_WORDS,
    TABLE_VERSION,
    GuestMemory,
    RegionTable,
)

TOP = 2**64


def test_layout_is_version_1():
    """Header of four words, then start, size, host address and bitmap of each region, sorted."""
    with GuestMemory.from_ranges([(TOP - 0x1000, 0x1000), (0, 0x2000)]) as memory:
        low, high = memory.regions
        words = struct.unpack("=12Q", memory.table)
        assert words[:4] == (1, memory.generation, 2, mmap.PAGESIZE.bit_length() - 1)
        assert words[4:8] == (0, 0x2000, low.host_address, 0)
        assert words[8:] == (TOP - 0x1000, 0x1000, high.host_address, 0)
        assert (TABLE_VERSION, TABLE_HEADER_WORDS, TABLE_ROW_WORDS) == (1, 4, 4)


def test_host_address_is_the_memory():
    """What is written at the host address is read at the guest address."""
    with GuestMemory.from_ranges([(0x1000, 0x1000)]) as memory:
        table = memory.table
        ctypes.memmove(table.words[6] + 0x10, b"from C", 6)
        assert memory.read(0x1010, 6) == b"from C"
        del table


def test_table_is_read_only():
    """Nobody can redirect C code by writing into the table."""
    with GuestMemory.from_ranges([(0, 0x1000)]) as memory:
        table = memory.table
        assert table.words.readonly
        assert table.words.format == "Q"
        del table


def test_table_borrows_every_region():
    """While a table, or a buffer of it, lives, no region can be closed."""
    memory = GuestMemory.from_ranges([(0, 0x1000), (0x1000, 0x1000)])
    words = memory.table.words
    with pytest.raises(BufferError, match="still borrowed"):
        memory.close()
    assert not any(region.closed for region in memory.regions)
    words.release()
    memory.close()


def test_generation_differs_for_every_map():
    """Equal generation means equal map, so a cached translation is still good."""
    with GuestMemory.from_ranges([(0, 0x1000)]) as memory:
        smaller, _removed = memory.remove(0, 0x1000)
        tables = [memory.table, memory.table, smaller.table]
        assert tables[0] == tables[1]
        assert tables[0].generation == memory.generation != smaller.generation
        assert isinstance(tables[2], RegionTable)
        assert tables[2].words.tolist()[:3] == [1, smaller.generation, 0]
        del tables
