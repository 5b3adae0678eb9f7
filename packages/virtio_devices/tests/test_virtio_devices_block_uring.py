"""Transfers past the page cache, which wait for the disk together: io_uring, if it is permitted."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from virtio_devices import Block, MmioTransport, RawImage, SplitQueue
from virtio_devices._core import Transfers
from virtio_devices.testing import InterruptCounter, MmioDriver, SplitDriver
from vm_memory import GuestMemory

IN, OUT = 0, 1
BLOCK = 4096
BLOCKS = 64
HEADERS, STATUSES, DATA = 0x10000, 0x18000, 0x20000
_SYS_IO_URING_SETUP = 425  # of every architecture


class Rig:
    """A disk past the page cache, and requests whose data are aligned unless a test says other."""

    def __init__(self, stack, path, *, direct=True, track_dirty=False):
        self.path = path
        path.write_bytes(b"".join(bytes([block + 1]) * BLOCK for block in range(BLOCKS)))
        ranges = [(0, 0x80000)]
        self.memory = GuestMemory.from_ranges(ranges, track_dirty=track_dirty)
        stack.enter_context(self.memory)
        self.image = stack.enter_context(RawImage(path, direct=direct))
        self.transport = MmioTransport(
            Block(self.image), self.memory, InterruptCounter(), kick=bool
        )
        driver = MmioDriver(self.transport)
        driver.negotiate(1 << 9)
        self.queue = SplitDriver(self.memory, 0x1000, 128, span=0x8000)
        driver.add_queue(0, self.queue)
        driver.start()
        self.count = 0

    def place(self, index):
        return DATA + 2 * BLOCK * index

    def add(self, kind, block, data=b"", shift=0):
        """One request of a block; its data are `shift` bytes off from where they should be."""
        index, self.count = self.count, self.count + 1
        self.memory.write(HEADERS + 16 * index, struct.pack("<IIQ", kind, 0, block * BLOCK // 512))
        self.memory.write(self.place(index) + shift, data)
        self.memory.write(STATUSES + index, b"\xff")
        self.queue.write_descriptor(3 * index, HEADERS + 16 * index, 16, 1, 3 * index + 1)
        flags = 1 if kind == OUT else 3
        place = self.place(index) + shift
        self.queue.write_descriptor(3 * index + 1, place, BLOCK, flags, 3 * index + 2)
        self.queue.write_descriptor(3 * index + 2, STATUSES + index, 1, 2)
        self.queue.offer(3 * index)
        return place

    def run(self):
        """The statuses of all requests."""
        assert not self.transport.process_queue(0)
        assert self.memory.load(self.queue.layout.used_idx, 2) == self.count
        return self.memory.read(STATUSES, self.count)


def rings():
    """How many io_uring instances this process has."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(entry.readlink())
        except FileNotFoundError:  # that of the directory itself
            continue
    return sum("io_uring" in str(link) for link in links)


def mappings():
    """How many pieces of io_uring instances this process has in its memory."""
    return Path("/proc/self/maps").read_text().count("io_uring")


def is_permitted():
    parameters = ctypes.create_string_buffer(120)
    fd = ctypes.CDLL(None, use_errno=True).syscall(_SYS_IO_URING_SETUP, 1, parameters)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


@pytest.fixture
def path(tmp_path):
    """A place for a disk where files can be opened past the page cache."""
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(BLOCK))
    try:
        os.close(os.open(probe, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no O_DIRECT here ({error.strerror})")
    return tmp_path / "disk"


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def test_a_batch_waits_together(stack, path):
    """One ring for the life of an activation, and every block where it belongs."""
    if not is_permitted():
        pytest.skip("io_uring is not permitted here")
    rig = Rig(stack, path)
    before, mapped = rings(), mappings()
    places = [rig.add(IN, block) for block in range(20)]
    assert rig.run() == bytes(20)
    assert rings() == before + 1
    places += [rig.add(IN, block) for block in range(20, 24)]
    rig.add(OUT, 40, b"x" * BLOCK)
    rig.add(OUT, 41, b"y" * BLOCK)
    assert rig.run() == bytes(26)
    assert rings() == before + 1
    for block, place in enumerate(places):
        assert rig.memory.read(place, BLOCK) == bytes([block + 1]) * BLOCK
    assert path.read_bytes()[40 * BLOCK : 42 * BLOCK] == b"x" * BLOCK + b"y" * BLOCK
    rig.transport.write(0x070, memoryview(bytes(4)))
    assert (rings(), mappings()) == (before, mapped)


@pytest.mark.parametrize("direct", [False, True])
def test_no_ring_without_need(stack, path, direct):
    """Not from the page cache, and not for one request at a time."""
    rig = Rig(stack, path, direct=direct)
    before = rings()
    for block in range(1 if direct else 20):
        rig.add(IN, block)
    assert rig.run() == bytes(rig.count)
    assert rings() == before


def test_without_io_uring_one_waits_after_another(stack, path):
    """A kernel or a limit that does not permit it costs nothing but the time."""
    rig = Rig(stack, path)
    before = rings()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        places = [rig.add(IN, block) for block in range(8)]
        assert rig.run() == bytes(8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert rings() == before
    assert [rig.memory.read(place, 1)[0] for place in places] == list(range(1, 9))
    rig.add(IN, 0)
    rig.add(IN, 1)
    assert rig.run() == bytes(10)
    assert rings() == before  # the answer stays


def test_overlapping_requests_keep_their_order(stack, path):
    """What a later one of a batch reads, or leaves on the disk, is not left to chance."""
    rig = Rig(stack, path)
    places = []
    for number in range(5):
        rig.add(OUT, 7, bytes([number]) * BLOCK)
        places.append(rig.add(IN, 7))
    assert rig.run() == bytes(10)
    for number, place in enumerate(places):
        assert rig.memory.read(place, BLOCK) == bytes([number]) * BLOCK
    assert path.read_bytes()[7 * BLOCK : 8 * BLOCK] == b"\4" * BLOCK


def test_misaligned_requests_in_a_batch(stack, path):
    """They go through aligned memory, and the others are not moved twice."""
    rig = Rig(stack, path)
    places = [rig.add(IN, block, shift=1 if block % 3 == 1 else 0) for block in range(10)]
    rig.add(OUT, 50, b"z" * BLOCK, shift=3)
    assert rig.run() == bytes(11)
    for block, place in enumerate(places):
        assert rig.memory.read(place - 1, BLOCK + 2) == (
            bytes(1) + bytes([block + 1]) * BLOCK + bytes(1)
        )
    assert path.read_bytes()[50 * BLOCK : 51 * BLOCK] == b"z" * BLOCK


def test_a_request_that_fails_among_others(stack, path):
    """The file has become shorter: IOERR for what is behind its end, and for nothing else."""
    rig = Rig(stack, path)
    os.truncate(path, 8 * BLOCK)
    for block in (0, 9, 1, 30, 7, 2):
        rig.add(IN, block)
    assert rig.run() == bytes([0, 1, 0, 1, 0, 0])


def test_dirty_pages(stack, path):
    """Those of the data, of the statuses and of the used ring."""
    rig = Rig(stack, path, track_dirty=True)
    places = [rig.add(IN, block) for block in range(4)]
    rig.memory.get_and_reset_dirty()
    rig.run()
    dirty = [(start, size) for start, size in rig.memory.get_and_reset_dirty() if start >= STATUSES]
    assert dirty == [(STATUSES, BLOCK), *((place, BLOCK) for place in places)]


class Shared:
    """Transfers past the page cache, and queues of several threads that share them."""

    def __init__(self, stack, path, threads=1):
        if not is_permitted():
            pytest.skip("io_uring is not permitted here")
        path.write_bytes(b"".join(bytes([block + 1]) * BLOCK for block in range(BLOCKS)))
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        stack.callback(os.close, self.fd)
        self.transfers = Transfers(BLOCKS * BLOCK, 1 << 20)
        self.memory = GuestMemory.from_ranges([(0x100000 * each, 0x100000) for each in range(4)])
        stack.enter_context(self.memory)
        self.drivers = [SplitDriver(self.memory, 0x100000 * each, 64) for each in range(threads)]
        self.queues = [SplitQueue(self.memory, driver.layout) for driver in self.drivers]
        for each in range(threads):
            for block in range(16):
                header = struct.pack("<IIQ", IN, 0, block * BLOCK // 512)
                self.memory.write(0x100000 * each + HEADERS + 16 * block, header)

    def batch(self, number=0):
        """Sixteen reads of one queue, which are done together."""
        driver, base = self.drivers[number], 0x100000 * number
        for block in range(16):
            index = 3 * block
            driver.write_descriptor(index, base + HEADERS + 16 * block, 16, 1, index + 1)
            place = base + DATA + BLOCK * block
            driver.write_descriptor(index + 1, place, BLOCK, 3, index + 2)
            driver.write_descriptor(index + 2, base + STATUSES + block, 1, 2)
            driver.offer(index)
        self.memory.write(base + DATA, bytes(16 * BLOCK))
        done = self.transfers.run(self.queues[number], self.fd, 16, 1 << 30)
        assert done == (16, 16 * BLOCK, [])
        data = self.memory.read(base + DATA, 16 * BLOCK)
        assert data == b"".join(bytes([block + 1]) * BLOCK for block in range(16))


def test_a_ring_is_opened_again_after_it_was_closed(stack, path):
    """Close gives back what the kernel lent, until there is need of it again."""
    shared, before = Shared(stack, path), rings()
    shared.batch()
    assert rings() == before + 1
    shared.transfers.close()
    shared.transfers.close()
    assert rings() == before
    shared.batch()
    assert rings() == before + 1


def test_two_threads_do_not_share_a_ring(stack, path):
    """One waits together, the other in order; each has its own data."""
    shared = Shared(stack, path, threads=4)
    failures = []

    def work(number):
        try:
            for _ in range(100):
                shared.batch(number)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_ring_in_use_is_not_closed(stack, path):
    """Another thread may ask for it at any time; the batch under way is not hurt."""
    shared, before = Shared(stack, path), rings()
    queue, closed = shared.queues[0], []
    ended = threading.Event()

    def close():
        while not ended.is_set():
            if queue.in_flight:  # only ever seen while a batch moves: else it has the GIL
                shared.transfers.close()
                closed.append(rings())

    thread = threading.Thread(target=close)
    thread.start()
    try:
        while not closed:
            shared.batch()
    finally:
        ended.set()
        thread.join()
    assert rings() == before + 1
