"""GuestRegion: kinds of memory, their limits, and who may close what."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from vm_memory import GuestMemory, GuestRegion, InvalidRegion, MappingFailed, PartialBuffer

PAGE = mmap.PAGESIZE
TOP = 2**64


@pytest.fixture
def file_fd(tmp_path):
    """A file of two pages, 'a' then 'b'."""
    path = tmp_path / "backing"
    path.write_bytes(b"a" * PAGE + b"b" * PAGE)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_anonymous_memory_is_zero():
    """A new region holds zeros and knows its range."""
    with GuestRegion.anonymous(0x1000, 3 * PAGE) as region:
        assert bytes(region.memory) == bytes(3 * PAGE)
        assert (region.start_addr, region.size) == (0x1000, 3 * PAGE)
        assert region.last_addr == 0x1000 + 3 * PAGE - 1
        assert repr(region) == "<GuestRegion 0x1000-0x3fff>"


def test_a_terabyte_costs_nothing_until_touched():
    """Anonymous memory is not reserved on the host."""
    with GuestRegion.anonymous(0, 1 << 40) as region:
        region.memory[-1] = 7
        assert region.memory[(1 << 40) - 1] == 7


def test_huge_pages_are_only_advice():
    """The advice never fails, whether the host has huge pages or not."""
    with GuestRegion.anonymous(0, 4 << 20, huge_pages_advice=True) as region:
        assert region.memory[0] == 0


@pytest.mark.parametrize(
    ("start", "size", "reason"),
    [
        (0, 0, "at least one byte"),
        (0x1000, -1, "at least one byte"),
        (-1, 1, "below address 0"),
        (TOP, 1, "beyond 2\\^64"),
        (TOP - PAGE, PAGE + 1, "beyond 2\\^64"),
    ],
)
def test_impossible_ranges_are_refused(start, size, reason):
    """Every constructor checks the range before it maps anything."""
    for make in (GuestRegion.anonymous, GuestRegion.memfd):
        with pytest.raises(InvalidRegion, match=reason) as caught:
            make(start, size)
        assert (caught.value.start, caught.value.size) == (start, size)


def test_region_may_end_at_2_to_the_64():
    """The anchor refuses a region that holds the last address; ours is one like any other."""
    with GuestRegion.anonymous(TOP - PAGE, PAGE) as region:
        assert region.last_addr == TOP - 1


def test_host_without_room_gives_a_typed_os_error():
    """The kernel's errno and the request are in the error."""
    with pytest.raises(
        MappingFailed, match=r"cannot map 0x7[0-9a-f]{15} bytes.*at 0x1000"
    ) as caught:
        GuestRegion.anonymous(0x1000, (1 << 63) - PAGE)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(MappingFailed, match="cannot map"):
        GuestRegion.anonymous(0, 1 << 63)
    with pytest.raises(MappingFailed, match="cannot map"):
        GuestRegion.memfd(0, (1 << 64) - 1)


def test_shared_file_mapping_reaches_the_file(file_fd):
    """A shared mapping at an offset is the file's own bytes."""
    with GuestRegion.from_fd(0, PAGE, file_fd, PAGE) as region:
        assert region.memory[0] == ord("b")
        region.memory[:4] = b"test"
        assert os.pread(file_fd, 4, PAGE) == b"test"


def test_private_file_mapping_does_not(file_fd):
    """A private mapping keeps the guest's writes to itself."""
    with GuestRegion.from_fd(0, PAGE, file_fd, shared=False) as region:
        region.memory[:4] = b"test"
        assert os.pread(file_fd, 4, 0) == b"aaaa"


@pytest.mark.parametrize(("size", "offset"), [(3 * PAGE, 0), (2 * PAGE, PAGE), (PAGE, 1)])
def test_file_must_hold_the_mapping(file_fd, size, offset):
    """Past the end of the file, or off a page border: refused, because it would be a SIGBUS."""
    with pytest.raises(MappingFailed, match="for the region at 0x4000"):
        GuestRegion.from_fd(0x4000, size, file_fd, offset)


def test_memfd_is_writable_and_sized():
    """A memfd region holds exactly the bytes asked for."""
    with GuestMemory([GuestRegion.memfd(0x1000, 2 * PAGE, name="ram")]) as memory:
        memory.write(0x1000 + 2 * PAGE - 2, b"ok")
        assert memory.read(0x1000 + 2 * PAGE - 2, 2) == b"ok"


def test_close_under_a_view_raises_and_leaves_the_region_usable():
    """Memory that someone looks at is never unmapped."""
    region = GuestRegion.anonymous(0, PAGE)
    view = region.memory
    part = view[16:32]
    view.release()
    with pytest.raises(BufferError, match="<GuestRegion 0x0-0xfff> is still borrowed"):
        region.close()
    part[0] = 9
    assert not region.closed
    assert region.memory[16] == 9
    part.release()
    region.close()
    region.close()
    assert region.closed


def test_closing_a_map_names_what_is_borrowed():
    """The regions that nobody borrows are closed; the others on the next try."""
    memory = GuestMemory.from_ranges([(0, PAGE), (PAGE, PAGE)])
    view = memory.view(PAGE, 8)
    with pytest.raises(BufferError, match=r"still borrowed: \[<GuestRegion 0x1000-0x1fff>\]"):
        memory.close()
    assert [region.closed for region in memory.regions] == [True, False]
    view.release()
    memory.close()
    memory.close()
    assert all(region.closed for region in memory.regions)


def test_closed_memory_behaves_like_a_closed_file():
    """Every access after close is a ValueError, never a crash."""
    memory = GuestMemory.from_ranges([(0, PAGE)])
    memory.close()
    for access in (
        lambda: memory.read(0, 1),
        lambda: memory.write(0, b"x"),
        lambda: memory.write(0, memoryview(b"x")),
        lambda: memory.read_into(0, bytearray(1)),
        lambda: memory.view(0, 1),
        lambda: memory.iovec(0, 1),
        lambda: memory.load(0, 8),
        lambda: memory.store(0, 0, 8),
        lambda: memory.table,
    ):
        with pytest.raises(ValueError, match=r"closed|released"):
            access()


def test_kept_errors_borrow_nothing():
    """An exception that somebody keeps does not keep the memory from being closed."""
    kept = []
    memory = GuestMemory.from_ranges([(0, PAGE), (PAGE, PAGE)])
    source = memory.view(0, 0x20)
    for access in (
        lambda: memory.read(PAGE, PAGE + 1),
        lambda: memory.write(2 * PAGE - 8, source),
        lambda: memory.read_into(2 * PAGE - 8, bytearray(16)),
        lambda: memory.iovec(0, 2 * PAGE + 1),
        lambda: memory.view(0, PAGE + 1),
        lambda: memory.read_from_fd(0, -1, 2 * PAGE),
        lambda: memory.write_to_fd(0, -1, 2 * PAGE, 0),
    ):
        try:
            access()
        except (PartialBuffer, OSError) as error:
            kept.append(error)
    source.release()
    memory.close()
    assert len(kept) == 7


def test_dropped_region_is_unmapped():
    """Memory without a reference goes back to the host by itself."""
    region = GuestRegion.anonymous(0, 64 << 20)
    address = region.host_address

    def mapped():
        with open("/proc/self/maps") as maps:  # noqa: PTH123 - not a path of ours
            spans = [line.split()[0].split("-") for line in maps]
        return any(int(low, 16) <= address < int(high, 16) for low, high in spans)

    assert mapped()
    del region
    assert not mapped()
