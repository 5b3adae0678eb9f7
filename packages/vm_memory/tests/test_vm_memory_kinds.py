"""Kinds of host memory: guard pages, placement, seals, huge pages, policies, memory unseen."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from vm_memory import (
    GuestMemory,
    GuestRegion,
    HostAddressNotAvailable,
    InvalidRegion,
    MappingFailed,
    MemoryRegionOverlap,
    PartialBuffer,
    PolicyRefused,
    _core,
)
from vm_memory.mapping import Mapping

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
MANY = 1 << 20  # more huge pages than any test machine has


@pytest.fixture
def file_fd():
    """A file of four pages, each filled with its number."""
    fd = os.memfd_create("file")
    os.write(fd, b"".join(bytes([page]) * PAGE for page in range(4)))
    yield fd
    os.close(fd)


def kinds(file_fd, size=2 * PAGE):
    """One region of every kind that maps memory."""
    return [
        GuestRegion.anonymous(0x1000, size),
        GuestRegion.memfd(0x1000, size),
        GuestRegion.from_fd(0x1000, size, file_fd),
        GuestRegion.from_fd(0x1000, size, file_fd, PAGE, shared=False),
    ]


def smaps(address):
    """The entry of the mapping that holds `address` in /proc/self/smaps."""
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        low, high = (int(number, 16) for number in entry.split()[0].split("-"))
        if low <= address < high:
            return entry
    pytest.fail(f"{address:#x} is not mapped")


def test_guard_pages_surround_every_kind(file_fd):
    """Before and behind the memory nothing can be read or written, right at its ends."""
    for region in kinds(file_fd):
        with region:
            host = region.host_address
            assert smaps(host).split()[1].startswith("rw")
            assert smaps(host - 1).split()[1].startswith("---")
            assert smaps(host + region.size).split()[1].startswith("---")


def test_a_stray_pointer_is_a_segmentation_fault():
    """One byte before the memory ends the process, which has read nothing."""
    program = (
        "import ctypes; from vm_memory import GuestRegion;"
        "region = GuestRegion.anonymous(0, 4096);"
        "ctypes.string_at(region.host_address, 1); print('inside', flush=True);"
        "ctypes.string_at(region.host_address - 1, 1); print('outside')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("inside\n", -signal.SIGSEGV)


def test_guards_go_with_the_region(file_fd):
    """Closing gives all of the reservation back."""
    for region in kinds(file_fd):
        low, high = region.host_address - PAGE, region.host_address + region.size
        region.close()
        maps = Path("/proc/self/maps").read_text()
        spans = [[int(n, 16) for n in line.split()[0].split("-")] for line in maps.splitlines()]
        assert not any(start <= low < end or start <= high < end for start, end in spans)


@pytest.mark.parametrize("start", [0, PAGE, 3 * HUGE + 5 * PAGE, 0xC000_0000, 2**64 - 4 * HUGE])
def test_large_memory_is_placed_for_huge_pages(start):
    """Host and guest address agree modulo 2 MiB, so one huge page can serve both."""
    for make in (GuestRegion.anonymous, GuestRegion.memfd):
        with make(start, 4 * HUGE) as region:
            assert region.host_address % HUGE == start % HUGE


def test_files_are_mapped_where_they_should_be(file_fd):
    """At the offset, shared or private, and with the descriptor that belongs to the region."""
    shared = GuestRegion.from_fd(0, PAGE, file_fd, 2 * PAGE)
    private = GuestRegion.from_fd(0, 2 * PAGE, file_fd, PAGE, shared=False)
    with shared, private:
        assert (shared.memory[0], private.memory[0], private.memory[PAGE]) == (2, 1, 2)
        shared.memory[0] = 77
        assert os.pread(file_fd, 1, 2 * PAGE) == b"\x4d"
        private.memory[0] = 88
        assert os.pread(file_fd, 1, PAGE) == b"\x01"
        assert shared.file_offset == 2 * PAGE
        assert os.path.sameopenfile(shared.file_descriptor, file_fd)
        assert shared.file_descriptor != file_fd
        own = shared.file_descriptor
    assert shared.file_descriptor == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(own)


def test_a_dropped_region_closes_its_file():
    """Memory without a reference gives back its descriptor too."""
    region = GuestRegion.memfd(0, PAGE)
    fd = region.file_descriptor
    del region
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def open_descriptors():
    """All of this process, and the one that looks."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_refused_files_leave_no_descriptor_open(file_fd):
    """A failure closes what was opened on the way."""
    before = open_descriptors()
    for attempt in (
        lambda: GuestRegion.from_fd(0, PAGE, file_fd, 1),
        lambda: GuestRegion.from_fd(0, PAGE, file_fd, -PAGE),
        lambda: GuestRegion.from_fd(0, PAGE, file_fd, 1 << 70),
        lambda: GuestRegion.from_fd(0, 5 * PAGE, file_fd),
        lambda: GuestRegion.from_fd(0, PAGE, 12345),
        lambda: GuestRegion.memfd(0, (1 << 63) - PAGE),
        lambda: GuestRegion.memfd(0, 1 << 63),
        lambda: GuestRegion.memfd(0, PAGE, name="x" * 300),
        lambda: GuestRegion.hugetlb(0, HUGE * MANY),
        lambda: GuestRegion.guest_memfd(0, PAGE, 12345),
    ):
        with pytest.raises(MappingFailed, match="cannot map 0x"):
            attempt()
    assert open_descriptors() == before


def test_short_file_is_named():
    """The message says where the file ends."""
    fd = os.memfd_create("short")
    os.ftruncate(fd, PAGE)
    with pytest.raises(MappingFailed, match=r"at 0x2000: the file ends at 0x1000") as caught:
        GuestRegion.from_fd(0x2000, PAGE, fd, PAGE)
    assert caught.value.errno == errno.EINVAL
    os.close(fd)


def test_devices_can_be_mapped():
    """A character device has no length to check; mmap(2) itself decides."""
    fd = os.open("/dev/zero", os.O_RDWR)
    with GuestRegion.from_fd(0, PAGE, fd, shared=False) as region:
        region.memory[0] = 1
        assert region.memory[0] == 1
        region.check_backing()
    os.close(fd)


def test_adopted_mappings_belong_to_their_region():
    """An mmap object of the caller's, with its exact length, closed with the region."""
    mapping = mmap.mmap(-1, PAGE)
    mapping[:2] = b"hi"
    region = GuestRegion(0x1000, mapping)
    assert (region.size, bytes(region.memory[:2])) == (PAGE, b"hi")
    borrowed = memoryview(mapping)
    with pytest.raises(BufferError, match="<GuestRegion 0x1000-0x1fff> is still borrowed"):
        region.close()
    assert region.memory[0] == ord("h")
    borrowed.release()
    region.close()
    assert mapping.closed


def test_read_only_mappings_are_not_guest_memory():
    """Every region can be written."""
    mapping = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
    with pytest.raises(InvalidRegion, match="its mapping cannot be written"):
        GuestRegion(0, mapping)
    mapping.close()


def test_only_mmap_objects_are_adopted():
    """What cannot be closed, or begins at any address, is no guest memory."""
    for other in (bytearray(PAGE), memoryview(bytearray(PAGE)), b"", 5):
        with pytest.raises(TypeError, match="guest memory belongs to mmap objects"):
            GuestRegion(0, other)
    for regions in ([(0, PAGE)], [5]):
        with pytest.raises(TypeError, match="is no GuestRegion: from_ranges takes numbers"):
            GuestMemory(regions)


class Complaining(mmap.mmap):
    """An mmap object whose close calls somebody else first, and may fail."""

    before = None
    error = None

    def close(self):
        if self.before is not None:
            self.before()
        if self.error is not None:
            raise self.error
        super().close()


def test_a_region_survives_what_its_mapping_does_on_close():
    """Re-entrance is the second call of close, and a failure leaves the region as it was."""
    mapping = Complaining(-1, PAGE)
    region = GuestRegion(0, mapping)
    mapping.before = region.close
    for error in (BufferError("mine"), RuntimeError("mine"), KeyboardInterrupt()):
        mapping.error = error
        with pytest.raises(type(error)):
            region.close()
        assert not region.closed
        region.memory[0] = 5
        assert region.memory[0] == 5
    mapping.error = None
    region.close()
    assert region.closed
    assert mapping.closed


def test_closing_says_closed_to_other_threads():
    """While the host takes large memory away, an access is a ValueError, not the guest's fault.

    The wrong behaviour: for the time of munmap(2) the memory looked like a hole.
    """
    wrong = []
    for _ in range(5):
        memory = GuestMemory.from_ranges([(0, 128 << 20)])
        memory.regions[0].prefault()
        running = threading.Event()

        def access(memory=memory, running=running):
            while True:
                try:
                    memory.load(0, 8)
                    running.set()
                except ValueError:
                    return
                except Exception as error:  # noqa: BLE001 - any other is what is looked for
                    wrong.append(error)
                    return

        thread = threading.Thread(target=access)
        thread.start()
        running.wait()
        memory.close()
        thread.join()
    assert wrong == []


def test_cycles_with_views_are_collected():
    """A subclass that keeps a view of itself, and a map, goes when nobody knows it any more."""

    class Keeper(GuestRegion):
        __slots__ = ("__weakref__", "map", "view")

    region = Keeper(0, mmap.mmap(-1, PAGE))
    region.view = region.memory
    region.map = GuestMemory([region])
    seen = weakref.ref(region)
    del region
    gc.collect()
    assert seen() is None


def test_files_in_huge_pages_are_mapped_whole(huge_pages):
    """Memory in hugetlbfs of another process, at any address; odd sizes are refused."""
    fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
    os.truncate(fd, 2 * HUGE)
    with GuestRegion.from_fd(0x1000, 2 * HUGE, fd) as region:
        assert region.host_address % HUGE == 0
        region.memory[HUGE] = 5
        assert region.memory[HUGE] == 5
    before = mapped_kib()
    for _ in range(50):
        with pytest.raises(
            MappingFailed, match="in huge pages of 0x200000 bytes, which come whole"
        ):
            GuestRegion.from_fd(0, PAGE, fd)
    assert mapped_kib() - before < HUGE >> 10
    os.close(fd)


def mapped_kib():
    """The size of this process's address space."""
    (size,) = re.findall(
        r"^VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE
    )
    return int(size)


def test_late_failures_close_the_file(file_fd):
    """What goes wrong after the file was opened, or duplicated, leaves no descriptor behind."""
    before = open_descriptors()
    for attempt in (
        lambda: GuestRegion.memfd(0.0, PAGE),
        lambda: GuestRegion.from_fd(0.0, PAGE, file_fd),
        lambda: GuestRegion.guest_memfd(0.0, PAGE, file_fd),
    ):
        with pytest.raises(TypeError):
            attempt()
    for offset in (-1, 1 << 63, (1 << 64) + 5):
        with pytest.raises(InvalidRegion, match=f"no file has an offset of {offset}"):
            GuestRegion.guest_memfd(0, PAGE, file_fd, offset)
    with pytest.raises(MappingFailed):
        GuestRegion.guest_memfd(0, PAGE, 1 << 40)
    assert open_descriptors() == before


@pytest.fixture
def huge_pages():
    """At least two huge pages of 2 MiB that nobody has claimed; root reserves them for the test."""
    folder = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    number = folder / "nr_hugepages"

    def unclaimed():
        names = ("free_hugepages", "resv_hugepages")
        free, reserved = (int((folder / name).read_text()) for name in names)
        return free - reserved

    if not folder.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before = number.read_text()
    lacking = unclaimed() < 2
    if lacking and os.geteuid() == 0:
        number.write_text(str(int(before) + 2))
    if unclaimed() < 2:
        pytest.skip("no free huge pages of 2 MiB")
    yield
    if lacking:
        number.write_text(before)


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages_are_set_aside():
    """A region in huge pages is memory like any other."""
    with GuestRegion.hugetlb(HUGE, 2 * HUGE, track_dirty=True) as region:
        assert region.host_address % HUGE == 0
        assert "KernelPageSize:     2048 kB" in smaps(region.host_address)
        region.memory[2 * HUGE - 1] = 5
        assert region.memory[2 * HUGE - 1] == 5


def test_without_huge_pages_the_error_says_what_to_do():
    """How many it takes, where to reserve them, and what to use instead."""
    with pytest.raises(MappingFailed) as caught:
        GuestRegion.hugetlb(0, HUGE * MANY)
    text = str(caught.value)
    assert f"it takes {MANY} free huge pages of 2048 KiB" in text
    assert "hugepages-2048kB/nr_hugepages" in text
    assert "huge_pages_advice" in text


def test_a_refused_file_leaves_the_reservation_whole():
    """mmap(2) with MAP_FIXED unmaps before it fails; what then takes the hole is not ours to unmap.

    The wrong behaviour: too few huge pages, and the owner of the reservation, dropped later,
    unmapped memory that malloc had got in the meantime.
    """
    mapping = Mapping(HUGE * MANY, page_size=HUGE)
    base = _core.address_of(mapping.owner)
    fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
    os.truncate(fd, HUGE * MANY)
    before = covered(base, len(mapping.owner))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        mapping.place_file(fd, 0, shared=True)
    os.close(fd)
    assert before == covered(base, len(mapping.owner)) == len(mapping.owner)


def covered(address, size):
    """How many bytes of a range are mapped."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(number, 16) for number in line.split()[0].split("-"))
        total += max(min(high, address + size) - max(low, address), 0)
    return total


def test_huge_pages_come_whole():
    """A size that is not a multiple, and a page size that no page can have."""
    for size, page_size in [(HUGE + PAGE, HUGE), (HUGE, 3 * PAGE), (HUGE, 0), (HUGE, -HUGE)]:
        with pytest.raises(InvalidRegion, match="not a whole number of huge pages"):
            GuestRegion.hugetlb(0, size, page_size=page_size)


def test_memory_that_this_process_cannot_see(file_fd):
    """guest_memfd: it has its place, and every access that begins there says why it fails."""
    region = GuestRegion.guest_memfd(PAGE, PAGE, file_fd, 2 * PAGE)
    memory = GuestMemory([GuestRegion.anonymous(0, PAGE), region])
    assert memory.find_region(PAGE + 5) is region
    assert (region.host_address, region.file_offset, region.dirty) == (0, 2 * PAGE, None)
    assert not memory.check_range(PAGE, 1)
    assert not memory.check_range(0, PAGE + 1)
    with pytest.raises(MemoryRegionOverlap):
        memory.insert(GuestRegion.anonymous(PAGE, PAGE))
    for access in (
        lambda: memory.read(PAGE, 4),
        lambda: memory.write(PAGE, b"four"),
        lambda: memory.read_into(PAGE, bytearray(4)),
        lambda: memory.view(PAGE, 4),
        lambda: memory.iovec(PAGE, 4),
        lambda: memory.load(PAGE, 4),
        lambda: memory.store(PAGE, 0, 4),
        lambda: memory.mark_dirty(PAGE, 4),
        lambda: memory.read_from_fd(PAGE, file_fd, 4),
    ):
        with pytest.raises(HostAddressNotAvailable, match="at 0x1000 is not mapped in this") as e:
            access()
        assert (e.value.address, e.value.size) == (PAGE, 4)
    with pytest.raises(PartialBuffer, match="only 0x1 of 0x2"):
        memory.read(PAGE - 1, 2)
    with pytest.raises(HostAddressNotAvailable):
        _ = region.memory
    with pytest.raises(PolicyRefused, match="cannot commit all pages"):
        region.prefault()
    memory.close()
    assert region.closed
    with pytest.raises(ValueError, match="is closed"):
        memory.read(PAGE, 1)


def test_prefault_commits_every_page(file_fd):
    """All of it is resident afterwards, of every kind."""
    for region in kinds(file_fd):
        with region:
            region.prefault()
            assert "Rss:                   8 kB" in smaps(region.host_address)


def test_mergeable_is_in_the_mapping():
    """The kernel has noted the advice, or says that it has no KSM."""
    with GuestRegion.anonymous(0, PAGE) as region:
        if not Path("/sys/kernel/mm/ksm").exists():
            with pytest.raises(PolicyRefused, match="cannot merge equal pages"):
                region.advise_mergeable()
            return
        region.advise_mergeable()
        assert re.search(r"^VmFlags:.* mg\b", smaps(region.host_address), re.MULTILINE)


def test_huge_page_advice_is_in_the_mapping():
    """As asked, or refused with a reason when it was more than advice."""
    with GuestRegion.anonymous(0, 2 * HUGE) as region:
        if not Path("/sys/kernel/mm/transparent_hugepage").exists():
            with pytest.raises(PolicyRefused, match="cannot use transparent huge pages"):
                region.advise_huge_pages()
            return
        region.advise_huge_pages()
        assert re.search(r"^VmFlags:.* hg\b", smaps(region.host_address), re.MULTILINE)


def test_binding_to_a_numa_node():
    """Node 0 exists where the kernel has NUMA; node 63 does not; a number beyond is a mistake."""
    with GuestRegion.anonymous(0, PAGE) as region:
        with pytest.raises(PolicyRefused, match=r"cannot take memory from NUMA nodes \(63,\)"):
            region.bind_to_nodes(63)
        for nodes in ((), (-1,), (0, 64)):
            with pytest.raises(ValueError, match="NUMA nodes are numbers from 0 to 63"):
                region.bind_to_nodes(*nodes)
        if Path("/proc/self/numa_maps").exists():
            region.bind_to_nodes(0)
            line = next(
                line
                for line in Path("/proc/self/numa_maps").read_text().splitlines()
                if int(line.split()[0], 16) == region.host_address
            )
            assert line.split()[1] == "bind:0"


def test_policies_need_open_memory_of_ours():
    """A closed region is a ValueError; an adopted mapping is its owner's business."""
    closed = GuestRegion.anonymous(0, PAGE)
    closed.close()
    for policy in ("prefault", "advise_mergeable", "advise_huge_pages"):
        with pytest.raises(ValueError, match="is closed"):
            getattr(closed, policy)()
    with (
        GuestRegion(0, mmap.mmap(-1, PAGE)) as adopted,
        pytest.raises(PolicyRefused, match="it is not mapped by us"),
    ):
        adopted.prefault()
