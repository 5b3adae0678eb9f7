"""Dirty tracking: every write path marks exactly its pages, after the bytes; nothing else does."""

from __future__ import annotations

import array
import errno
import mmap
import os
import socket

import pytest

from vm_memory import (
    DIRTY_PAGE_SIZE,
    DirtyBitmap,
    GuestMemory,
    GuestRegion,
    InvalidGuestAddress,
    PartialBuffer,
)

PAGE = mmap.PAGESIZE


@pytest.fixture
def memory():
    """Four tracked pages, four adjacent ones, all clean."""
    with GuestMemory.from_ranges([(0, 4 * PAGE), (4 * PAGE, 4 * PAGE)], track_dirty=True) as memory:
        yield memory


@pytest.fixture
def file_fd():
    """A file of 4 pages and 5 bytes."""
    fd = os.memfd_create("file")
    os.write(fd, bytes(4 * PAGE) + b"12345")
    yield fd
    os.close(fd)


def pages(memory):
    """The numbers of all pages of the next harvest."""
    spans = memory.get_and_reset_dirty()
    return [page for start, size in spans for page in range(start // PAGE, (start + size) // PAGE)]


def test_new_memory_is_clean(memory):
    """Nothing was written, nothing is dirty."""
    assert memory.get_and_reset_dirty() == []
    assert [len(region.dirty) for region in memory.regions] == [4, 4]
    assert DIRTY_PAGE_SIZE == PAGE == memory.regions[0].dirty.page_size


def test_writes_mark_every_page_they_touch(memory):
    """Bytes at both edges of a page, and across a border of regions; each mark is told once."""
    memory.write(2 * PAGE - 1, b"x")
    assert pages(memory) == [1]
    memory.write(2 * PAGE - 1, b"xy")
    assert pages(memory) == [1, 2]
    memory.write(4 * PAGE - 1, bytes(PAGE + 2))
    assert pages(memory) == [3, 4, 5]
    assert pages(memory) == []


def test_partial_writes_mark_what_they_wrote(memory):
    """What was transferred before the hole is dirty; an access that fails at once marks nothing."""
    with pytest.raises(PartialBuffer):
        memory.write(8 * PAGE - 2, b"four")
    assert pages(memory) == [7]
    with pytest.raises(InvalidGuestAddress):
        memory.write(8 * PAGE, b"four")
    assert pages(memory) == []


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_stores_mark(memory, size):
    """An integer is a write."""
    memory.store(3 * PAGE + 8, 1, size)
    assert pages(memory) == [3]


def test_files_mark_what_came(memory, file_fd):
    """A read that ends early marks up to the last byte that was really read."""
    assert memory.read_from_fd(PAGE, file_fd, 6 * PAGE, 4 * PAGE) == 5
    assert pages(memory) == [1]
    assert memory.read_from_fd(PAGE + 1, file_fd, 2 * PAGE, 0) == 2 * PAGE
    assert pages(memory) == [1, 2, 3]
    assert memory.read_from_fd(0, file_fd, PAGE, 5 * PAGE) == 0
    assert pages(memory) == []


def test_failed_reads_mark_what_came_before(memory):
    """Some bytes, then an error: the bytes are in the guest, so their pages are dirty."""
    ends = socket.socketpair()
    with ends[0] as ours, ends[1] as theirs:
        theirs.send(b"abc")
        ours.setblocking(False)
        assert memory.read_from_fd(0, ours.fileno(), 2 * PAGE) == 3
        assert pages(memory) == [0]
        with pytest.raises(BlockingIOError):
            memory.read_from_fd(0, ours.fileno(), 2 * PAGE)
    assert pages(memory) == []


def test_a_failed_call_may_have_written(memory, file_fd):
    """A packet whose end finds no memory has filled the pages before it: all count as dirty.

    The wrong behaviour: EFAULT, bytes in the guest, and no mark.
    """
    os.ftruncate(file_fd, 2 * PAGE)
    gone = GuestRegion.from_fd(8 * PAGE, 2 * PAGE, file_fd, track_dirty=True)
    os.ftruncate(file_fd, PAGE)
    larger = memory.insert(gone)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        for receive in (
            lambda: larger.readv(right.fileno(), [(PAGE, 100), (9 * PAGE, 100)]),
            lambda: larger.recvmsg(right, [(PAGE, 100), (9 * PAGE, 100)]),
        ):
            left.send(b"x" * 200)
            with pytest.raises(OSError) as caught:  # noqa: PT011 - errno says which
                receive()
            assert caught.value.errno == errno.EFAULT
            assert memory.read(PAGE, 100) == b"x" * 100
            assert 1 in pages(memory)
    gone.close()


def test_a_failed_harvest_loses_no_mark(memory):
    """The pieces cannot be made, for want of memory: the marks are there for the next call."""
    testcapi = pytest.importorskip("_testcapi")
    for page in (0, 2, 5, 7):
        memory.mark_dirty(page * PAGE, 1)
    failures = 0
    for start in range(30):
        testcapi.set_nomemory(start, start + 1)
        try:
            taken = memory.get_and_reset_dirty()
        except MemoryError:
            failures += 1
        else:
            testcapi.remove_mem_hooks()
            assert taken == [(page * PAGE, PAGE) for page in (0, 2, 5)] + [(7 * PAGE, PAGE)]
            break
        finally:
            testcapi.remove_mem_hooks()
    assert failures > 3
    assert memory.get_and_reset_dirty() == []


def test_vectored_reads_mark_in_order(memory, file_fd):
    """The pieces are filled one after the other, so only the first ones are dirty."""
    spans = [(7 * PAGE, 3), (PAGE, 4), (2 * PAGE, PAGE)]
    assert memory.readv(file_fd, spans, 4 * PAGE) == 5
    assert memory.read(PAGE, 2) == b"45"
    assert pages(memory) == [1, 7]


def test_messages_mark_what_came(memory):
    """As readv; a message that was cut marks no more than there was room for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        receiver_path = "\0py-vmm-test-dirty" + str(os.getpid())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(receiver_path)
            sender.sendto(b"abcde", receiver_path)
            result = memory.recvmsg(receiver, [(0, 3), (PAGE, 10)])
            assert (result[0], memory.read(PAGE, 2)) == (5, b"de")
            assert pages(memory) == [0, 1]
            sender.sendto(b"abcde", receiver_path)
            result = memory.recvmsg(receiver, [(0, 3)], 0, socket.MSG_TRUNC)
            assert result[0] == 5
            assert pages(memory) == [0]
            sender.sendto(b"x" * PAGE, receiver_path)
            assert memory.recvmsg(receiver, [(2 * PAGE, 2 * PAGE)])[0] == PAGE
            assert pages(memory) == [2]


def test_reading_marks_nothing(memory, file_fd):
    """Every path out of the guest, and views that cannot be written through."""
    memory.read(0, 5 * PAGE)
    memory.read_into(0, bytearray(16))
    memory.load(0, 8)
    memory.write_to_fd(0, file_fd, 5 * PAGE, 0)
    memory.writev(file_fd, [(0, PAGE), (PAGE, PAGE)], 0)
    for view in (memory.view(0, PAGE, writable=False), *memory.iovec(0, 5 * PAGE, writable=False)):
        assert view.readonly
        view.release()
    left, right = socket.socketpair()
    with left, right:
        assert memory.sendmsg(left, [(0, 2), (PAGE, 3)]) == 5
    assert pages(memory) == []


def test_live_views_are_dirty_until_they_end(memory):
    """A write can come at any time while a view lives: it is in each harvest, and in one more."""
    view = memory.view(PAGE + 5, PAGE)
    assert pages(memory) == [1, 2]
    part = view[3:].cast("B")
    view.release()
    assert pages(memory) == [1, 2]
    assert memory.regions[0].dirty.is_dirty(2 * PAGE)
    assert memory.regions[0].dirty.snapshot() == (0b110).to_bytes(8, "little")
    part.release()
    assert pages(memory) == [1, 2]
    assert pages(memory) == []


def test_several_live_views(memory):
    """They end in any order, and each is dirty for as long as itself."""
    first, second, third = (memory.view(page * PAGE, 1) for page in (0, 2, 3))
    second.release()
    assert pages(memory) == [0, 2, 3]
    first.release()
    third.release()
    assert pages(memory) == [0, 3]
    assert pages(memory) == []


def test_iovec_and_region_views_mark(memory):
    """Every writable view of guest memory, but the one for a hypervisor's slot."""
    for view in memory.iovec(3 * PAGE, 2 * PAGE):
        view.release()
    assert pages(memory) == [3, 4]
    memory.regions[1].memory.release()
    assert pages(memory) == [4, 5, 6, 7]
    slot = memory.regions[1].slot_memory
    slot[0] = 1
    assert pages(memory) == []
    slot.release()
    assert pages(memory) == []


def test_empty_accesses_mark_nothing(memory):
    """Zero bytes touch no page."""
    memory.write(PAGE, b"")
    memory.view(PAGE, 0).release()
    memory.mark_dirty(PAGE, 0)
    memory.regions[0].dirty.mark(PAGE, 0)
    assert pages(memory) == []


def test_mark_dirty_follows_the_rules_of_access(memory):
    """Across regions, and with the same errors as a write; nothing is marked by a bad range."""
    memory.mark_dirty(4 * PAGE - 1, 2)
    assert pages(memory) == [3, 4]
    with pytest.raises(PartialBuffer):
        memory.mark_dirty(7 * PAGE, PAGE + 1)
    with pytest.raises(InvalidGuestAddress):
        memory.mark_dirty(9 * PAGE, 1)
    assert pages(memory) == []


def test_union_with_a_hypervisors_log(memory):
    """KVM's words for the slot are added to what this process has written."""
    memory.write(0, b"ours")
    memory.regions[0].dirty.merge(array.array("Q", [0b1000]))
    assert pages(memory) == [0, 3]
    with pytest.raises(ValueError, match="a log of 7 bytes is not for 4 pages: that takes 8"):
        memory.regions[0].dirty.merge(bytes(7))


def test_bits_behind_the_last_page_are_not_believed(memory):
    """A log with garbage in its last word marks no page that does not exist."""
    memory.regions[1].dirty.merge(b"\xff" * 8)
    assert memory.get_and_reset_dirty() == [(4 * PAGE, 4 * PAGE)]


def test_memory_without_a_bitmap_tells_nothing():
    """Tracking is per region; a map may have both kinds."""
    tracked = GuestRegion.anonymous(PAGE, PAGE, track_dirty=True)
    with GuestMemory([GuestRegion.anonymous(0, PAGE), tracked]) as memory:
        memory.write(0, bytes(2 * PAGE))
        assert memory.regions[0].dirty is None
        assert memory.get_and_reset_dirty() == [(PAGE, PAGE)]
        assert memory.table.words[7] == 0
        assert memory.table.words[11] == tracked.dirty.host_address


def test_odd_regions_end_where_they_end():
    """The last, partial page is reported with the bytes that it has."""
    with GuestMemory.from_ranges([(0x10, PAGE + 3)], track_dirty=True) as memory:
        memory.write(0x10 + PAGE, b"end")
        assert memory.get_and_reset_dirty() == [(0x10 + PAGE, 3)]


def test_file_memory_can_track(file_fd):
    """Every kind of mapped memory takes a bitmap."""
    mapping = mmap.mmap(-1, PAGE)
    for region in (
        GuestRegion.memfd(0, PAGE, track_dirty=True),
        GuestRegion.from_fd(0, PAGE, file_fd, track_dirty=True),
        GuestRegion(0, mapping, track_dirty=True),
    ):
        with GuestMemory([region]) as memory:
            memory.write(8, b"x")
            assert memory.get_and_reset_dirty() == [(0, PAGE)]


def test_a_bitmap_for_a_terabyte_costs_nothing():
    """Its words come from the host as they are used."""
    with GuestRegion.anonymous(0, 1 << 40, track_dirty=True) as region:
        region.dirty.mark((1 << 40) - 1)
        assert region.dirty.is_dirty((1 << 40) - PAGE)
        assert len(region.dirty) == (1 << 40) // PAGE


def test_bitmaps_refuse_what_they_do_not_describe():
    """Offsets and sizes outside, and numbers that no bitmap can have."""
    bitmap = DirtyBitmap(100, 8)
    assert (len(bitmap), bitmap.size, bitmap.page_size) == (13, 100, 8)
    for offset, size in [(100, 1), (99, 2), (-1, 1), (0, 101), (2**64, 1), (0, 2**64)]:
        for method in (bitmap.mark, bitmap.reset):
            with pytest.raises(ValueError, match="lies outside of a bitmap for 100 bytes"):
                method(offset, size)
    with pytest.raises(ValueError, match="lies outside"):
        bitmap.is_dirty(100)
    with pytest.raises(ValueError, match="cannot be negative"):
        bitmap.mark(0, -1)
    for page_size in (0, 3, 4, -8, 2**64):
        with pytest.raises(ValueError, match="is no power of two from 8 on"):
            DirtyBitmap(100, page_size)
    for size in (0, 2**64):
        with pytest.raises(ValueError, match="no bitmap for"):
            DirtyBitmap(size, 8)
    for arguments in (("x",), (None, 1), (0, 1, 2), ()):
        with pytest.raises(TypeError):
            bitmap.mark(*arguments)
