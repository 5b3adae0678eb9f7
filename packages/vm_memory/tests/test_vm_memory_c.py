"""The contract with C code: one table, bounds from it, marks as it says, memory that stays."""

from __future__ import annotations

import ctypes
import functools
import mmap
import threading

import pytest

from vm_memory import GuestMemory, GuestRegion

OK, UNKNOWN_VERSION, OUTSIDE = range(3)
PAGE = mmap.PAGESIZE
TOP = 2**64


@pytest.fixture
def memory():
    """Two regions of which one tracks, and one at the end of the address space."""
    with GuestMemory(
        [
            GuestRegion.anonymous(0, 4 * PAGE, track_dirty=True),
            GuestRegion.anonymous(4 * PAGE, PAGE),
            GuestRegion.anonymous(TOP - PAGE, PAGE, track_dirty=True),
        ]
    ) as memory:
        yield memory


def test_c_reads_what_python_wrote(memory, table_reader):
    """By guest physical address, through nothing but the table."""
    memory.write(2 * PAGE + 5, b"hello C")
    buffer = ctypes.create_string_buffer(7)
    assert table_reader.table_read(memory.table, 2 * PAGE + 5, buffer, 7) == OK
    assert buffer.raw == b"hello C"


def test_c_marks_what_it_writes(memory, table_reader):
    """Every page of the write, in the bitmap that Python harvests."""
    assert table_reader.table_write(memory.table, PAGE - 2, b"four", 4) == OK
    assert table_reader.table_write(memory.table, TOP - 3, b"top", 3) == OK
    assert memory.read(PAGE - 2, 4) == b"four"
    assert memory.read(TOP - 3, 3) == b"top"
    assert memory.get_and_reset_dirty() == [(0, 2 * PAGE), (TOP - PAGE, PAGE)]


def test_c_finds_no_way_out(memory, table_reader):
    """Ranges that leave a region, wrap, or lie in a hole; and an unknown layout."""
    for address, size in [
        (4 * PAGE - 1, 2),
        (5 * PAGE, 1),
        (0, 4 * PAGE + 1),
        (TOP - 1, 2),
        (0x1000, TOP - 1),
    ]:
        assert table_reader.table_write(memory.table, address, b"", size) == OUTSIDE
    assert table_reader.table_read(b"\2" + bytes(63), 0, b"", 1) == UNKNOWN_VERSION


def test_memory_that_is_not_mapped_is_a_row_without_address(table_reader, tmp_path):
    """C code sees that the range is taken and that it cannot have it."""
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as file:
        region = GuestRegion.guest_memfd(0, PAGE, file.fileno())
    with GuestMemory([region]) as memory:
        table = memory.table
        assert table.words.tolist()[4:] == [0, PAGE, 0, 0]
        assert table_reader.table_read(table, 0, b"", 1) == OUTSIDE
        del table


def harvest_while(memory, work):
    """All harvests while another thread does `work`, and a last one after its end."""
    thread = threading.Thread(target=work)
    thread.start()
    harvests = []
    while thread.is_alive():
        harvests.append(memory.get_and_reset_dirty())
    thread.join()
    return [*harvests, memory.get_and_reset_dirty()]


def test_no_mark_is_lost_while_c_marks(table_reader):
    """A device marks each page once, while harvests run: together they have every page, once."""
    count = 1 << 18
    with GuestMemory.from_ranges([(0, count * PAGE)], track_dirty=True) as memory:
        table = memory.table
        memory.regions[0].dirty.merge(bytes(count // 8))  # its words are there before it begins
        touch = functools.partial(table_reader.table_touch, table, 0, count)
        harvests = harvest_while(memory, touch)
        assert sum(size for harvest in harvests for _start, size in harvest) == count * PAGE
        assert len([harvest for harvest in harvests if harvest]) > 2
        del table, touch


def test_marks_come_after_the_bytes():
    """A harvest in the middle of a long write takes no mark of it: the last one has them all.

    A mark that is set first is taken before the bytes are there, and nobody copies them.
    """
    size = 128 << 20
    data = bytes(size)
    with GuestMemory.from_ranges([(0, size)], track_dirty=True) as memory:
        memory.regions[0].prefault()
        for _attempt in range(20):
            harvests = harvest_while(memory, lambda: memory.write(0, data))
            assert harvests[-1] == [(0, size)] or harvests[-2] == [(0, size)]
            if len(harvests) > 3:
                break
        assert len(harvests) > 3


def test_live_migration_in_small(table_reader):
    """Copying what each harvest names, while a device writes, ends in an equal copy."""
    pages = 64
    with GuestMemory.from_ranges([(0, pages * PAGE)], track_dirty=True) as memory:
        table = memory.table
        copy = bytearray(pages * PAGE)

        def pull():
            for start, size in memory.get_and_reset_dirty():
                copy[start : start + size] = memory.read(start, size)

        device = threading.Thread(target=table_reader.table_count_up, args=(table, 0, pages, 20000))
        device.start()
        while device.is_alive():
            pull()
        device.join()
        pull()
        assert copy == memory.read(0, pages * PAGE)
        assert memory.get_and_reset_dirty() == []
        assert memory.load(0, 8) == 20000
        del table
