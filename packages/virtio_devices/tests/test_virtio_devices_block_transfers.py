"""Plain transfers of a disk, which are carried out in C: the same as by the methods, faster."""

from __future__ import annotations

import errno
import itertools
import os
import struct
import tempfile
import threading
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtio_devices import (
    Block,
    DeviceStatus,
    DiskSizes,
    Feature,
    MmioTransport,
    RawImage,
    SplitQueue,
    VirtioUsageError,
    _core,
)
from virtio_devices.block.serving import serve_requests
from virtio_devices.testing import InterruptCounter, MmioDriver, PackedDriver, SplitDriver
from vm_memory import GuestMemory

IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
SECTORS = 40
CONTENTS = b"".join(bytes([sector + 1]) * 512 for sector in range(SECTORS))
FEATURES = int(Feature.INDIRECT_DESC | Feature.EVENT_IDX) | 0x7FFF


def header(kind, sector):
    return struct.pack("<IIQ", kind, 0, sector)


# Against the methods


class Image(RawImage):
    """An image with or without transfers in C."""

    in_c = True

    @property
    def transfer_fd(self):
        return super().transfer_fd if self.in_c else -1


class Outcome:
    """Everything that a load leaves behind: used elements, memory, dirty pages, file, errors."""

    def __init__(self, load, *, in_c, packed, features, read_only, file_size):
        with ExitStack() as stack:
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(CONTENTS)
            file.flush()
            memory = GuestMemory.from_ranges([(0, 0x9000), (0x9000, 0x17000)], track_dirty=True)
            stack.enter_context(memory)
            image = stack.enter_context(Image(file.name, read_only=read_only))
            image.in_c = in_c
            os.truncate(file.name, file_size)
            failures = []
            device = Block(image, serial=b"same", report=failures.append)
            transport = MmioTransport(device, memory, InterruptCounter(), kick=bool)
            driver = MmioDriver(transport)
            driver.negotiate(features | (int(Feature.RING_PACKED) if packed else 0))
            queue = (PackedDriver if packed else SplitDriver)(memory, 0, 64, span=0x20000)
            driver.add_queue(0, queue)
            driver.start()
            for readable, writable in load:
                queue.add(readable, writable)
            memory.get_and_reset_dirty()
            for _ in range(5):
                transport.process_queue(0)
            self.dirty = pages(memory.get_and_reset_dirty())
            self.memory = memory.read(0, 0x20000)
            self.used = [(used.head, used.data) for used in queue.collect()]
            file.seek(0)
            self.file = file.read()
            self.failures = [failure.errno for failure in failures]
            self.failure = str(transport.failure)


def pages(ranges):
    return {page for start, size in ranges for page in range(start, start + size, 4096)}


kinds = st.sampled_from([IN, IN, OUT, OUT, FLUSH, GET_ID, 13]) | st.integers(0, 2**32 - 1)
sectors = st.integers(0, SECTORS + 1) | st.sampled_from([2**55, 2**64 - 1])
sizes = st.integers(0, 4).map(lambda count: 512 * count) | st.integers(0, 1100)


@st.composite
def requests(draw):
    """One request, mostly a whole one, in any layout."""
    kind, size = draw(kinds), draw(sizes)
    data = b"\xa5" * size if kind == OUT else b""
    room = size if kind == IN else draw(st.sampled_from([0, 0, 20, 512]))
    readable = cut(draw, header(kind, draw(sectors)) + data)
    writable = [
        len(piece) for piece in cut(draw, bytes(room + draw(st.sampled_from([1] * 9 + [0]))))
    ]
    return readable, writable


def cut(draw, data):
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=2)))
    bounds = [0, *places, len(data)]
    return [data[first:second] for first, second in itertools.pairwise(bounds)]


@settings(max_examples=250, deadline=None)
@given(
    st.lists(requests(), min_size=1, max_size=10),
    st.booleans(),
    st.sampled_from([FEATURES & ~int(Feature.EVENT_IDX), 0]),
    st.booleans(),
    st.sampled_from([SECTORS * 512, SECTORS * 512, 7000]),
)
def test_c_does_what_the_methods_do(load, packed, features, read_only, file_size):
    """To the driver's rings and buffers, to the file, to the marks, and in what is reported.

    Only of a read that the host failed more pages may count as dirty.
    """
    options = {"packed": packed, "features": features, "read_only": read_only}
    ours, methods = (
        Outcome(load, in_c=in_c, file_size=file_size, **options) for in_c in (True, False)
    )
    assert ours.used == methods.used
    assert ours.memory == methods.memory
    assert ours.file == methods.file
    assert ours.failures == methods.failures
    assert ours.failure == methods.failure
    assert ours.dirty == methods.dirty or (ours.failures and ours.dirty > methods.dirty)


# Who does what


class Recorded:
    """A disk in a file that writes down which methods are asked, and what the file then is."""

    read_only = can_discard = False

    def __init__(self, file):
        self.file = file
        self.sizes = DiskSizes(SECTORS * 512)
        self.transfer_fd = file.fileno()
        self.calls = []

    def contents(self):
        return os.pread(self.file.fileno(), SECTORS * 512, 0)

    def read(self, memory, spans, offset):
        self.calls.append(("read", offset, self.contents()))
        memory.readv(self.file.fileno(), spans, offset)

    def write(self, memory, spans, offset):
        self.calls.append(("write", offset, self.contents()))
        memory.writev(self.file.fileno(), spans, offset)

    def flush(self):
        self.calls.append(("flush", 0, self.contents()))


class Listener(GuestMemory):
    """Memory that tells of what C code writes."""

    __slots__ = ("hear",)

    def wrote(self, address, size):
        self.hear(address, size)


class Rig:
    """A queue with a driver on it, and a disk."""

    def __init__(self, stack, *, size=64, ranges=((0, 0x40000),), span=0x40000, listen=None):
        self.memory = stack.enter_context(GuestMemory.from_ranges(ranges))
        if listen:
            self.memory = Listener(self.memory.regions)
            self.memory.hear = lambda *wrote: listen(self, *wrote)
        self.file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self.file.write(CONTENTS)
        self.file.flush()
        self.disk = Recorded(self.file)
        self.device = Block(self.disk, queue_size=size)
        self.machine = MmioTransport(self.device, self.memory, InterruptCounter(), kick=bool)
        self.driver = MmioDriver(self.machine)
        self.size, self.span = size, span
        self.restart()

    def restart(self):
        """Reset the device and start it."""
        self.driver.negotiate(FEATURES & ~int(Feature.EVENT_IDX))
        self.queue = SplitDriver(self.memory, 0, self.size, span=self.span)
        self.driver.add_queue(0, self.queue)
        self.driver.start()

    def read(self, sector, room=512):
        return self.queue.add([header(IN, sector)], [room, 1])

    def write(self, sector, data):
        return self.queue.add([header(OUT, sector), data], [1])

    def run(self):
        """What came back, in its order."""
        while self.machine.process_queue(0):
            pass
        return [used.data for used in self.queue.collect()]

    @property
    def methods(self):
        return [call[0] for call in self.disk.calls]


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def test_transfers_pass_the_methods_by(stack):
    """More than a batch of them, in any layout."""
    rig = Rig(stack)
    for sector in range(20):
        rig.queue.add([header(IN, sector)[:5], header(IN, sector)[5:]], [100, 413], indirect=True)
    rig.write(3, b"x" * 1024)
    *read, written = rig.run()
    assert read == [bytes([sector + 1]) * 512 + b"\0" for sector in range(20)]
    assert written == b"\0"
    assert rig.disk.contents() == CONTENTS[:1536] + b"x" * 1024 + CONTENTS[2560:]
    assert rig.methods == []


def test_a_flush_finds_what_was_before_it(stack):
    """And nothing of what comes after it: batches end where something else begins."""
    rig = Rig(stack)
    rig.write(0, b"a" * 512)
    rig.queue.add([header(FLUSH, 0)], [1])
    rig.write(0, b"b" * 512)
    rig.read(0)
    rig.queue.add([header(FLUSH, 0)], [1])
    assert rig.run() == [b"\0", b"\0", b"\0", b"b" * 512 + b"\0", b"\0"]
    assert [(name, contents[0]) for name, _, contents in rig.disk.calls] == [
        ("flush", ord("a")),
        ("flush", ord("b")),
    ]


def test_what_does_not_succeed_is_asked_of_the_methods(stack):
    """In its place: what was before it is done, what is behind it follows."""
    rig = Rig(stack)
    rig.write(1, b"1" * 512)
    os.ftruncate(rig.file.fileno(), 2048)
    rig.read(3, 1024)  # a half of it is there
    rig.write(0, b"0" * 512)
    rig.read(30)
    rig.read(0)
    answers = rig.run()
    assert [call[:2] for call in rig.disk.calls] == [("read", 1536), ("read", 30 * 512)]
    assert rig.disk.calls[0][2][:1024] == CONTENTS[:512] + b"1" * 512
    assert [len(answer) for answer in answers] == [1, 1025, 1, 513, 513]
    assert answers[-1] == b"0" * 512 + b"\0"


def test_a_descriptor_that_fails_costs_nothing(stack):
    """Every transfer is asked of the methods then, in order."""
    rig = Rig(stack)
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    rig.disk.transfer_fd = reader
    rig.restart()
    for sector in range(18):
        rig.read(sector)
    assert rig.run() == [bytes([sector + 1]) * 512 + b"\0" for sector in range(18)]
    assert [call[1] for call in rig.disk.calls] == [512 * sector for sector in range(18)]


def test_write_through_writes_are_the_methods(stack):
    """Each of them is flushed before it is told (§5.2.6.2)."""
    rig = Rig(stack)
    rig.driver.write(0x100 + 32, 0, 1)
    rig.write(0, b"x" * 512)
    rig.read(0)
    assert rig.run() == [b"\0", b"x" * 512 + b"\0"]
    assert rig.methods == ["write", "flush"]
    rig.driver.write(0x100 + 32, 1, 1)
    rig.write(0, b"y" * 512)
    assert rig.run() == [b"\0"]
    assert rig.methods == ["write", "flush"]


def test_a_backend_may_lose_its_file(stack):
    """From the next batch on its methods are asked."""
    rig = Rig(stack)
    rig.read(0)
    rig.run()
    rig.disk.transfer_fd = -1
    rig.read(1)
    assert rig.run() == [b"\2" * 512 + b"\0"]
    assert rig.methods == ["read"]


def test_a_file_lost_between_two_batches(stack):
    """The methods are asked from there on."""
    rig = Rig(stack)

    class Closing(Recorded):
        @property
        def transfer_fd(self):
            begun = self.contents()[:512] == b"x" * 512
            return -1 if begun else self.file.fileno()

    del rig.disk.transfer_fd
    rig.disk.__class__ = Closing
    rig.write(0, b"x" * 512)
    for sector in range(19):
        rig.read(sector)
    assert len(rig.run()) == 20
    assert rig.methods == ["read"] * 4


def test_a_file_is_the_same_one_until_the_reset(stack):
    """Its maker closes it, and the number is another file's: that one sees no byte of the guest."""
    rig = Rig(stack)
    number = os.dup(rig.file.fileno())
    rig.disk.transfer_fd = number
    rig.restart()
    other = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    os.dup2(other.fileno(), number)
    stack.callback(os.close, number)
    rig.write(0, b"x" * 512)
    rig.read(1)
    assert rig.run() == [b"\0", b"\2" * 512 + b"\0"]
    assert os.fstat(other.fileno()).st_size == 0
    assert rig.disk.contents()[:512] == b"x" * 512
    assert rig.methods == []
    rig.restart()
    rig.write(0, b"y" * 512)
    rig.run()
    assert os.fstat(other.fileno()).st_size == 512


def test_a_reset_from_within_ends_transfers(stack):
    """A listener may reset the device; the file of the activation is not used any more."""
    rig = Rig(stack, listen=lambda rig, *_wrote: rig.machine.write(0x070, memoryview(bytes(4))))
    rig.read(0)
    assert rig.run() == []
    assert rig.device._file is None


def test_no_descriptor_to_spare_is_a_failed_device(stack, monkeypatch):
    """The driver is told (DEVICE_NEEDS_RESET), the VMM why."""
    rig = Rig(stack)
    monkeypatch.setattr(os, "dup", refuse)
    rig.restart()
    assert "the file of a disk cannot be used" in str(rig.machine.failure)
    monkeypatch.undo()
    rig.restart()
    rig.read(0)
    assert rig.run() == [b"\1" * 512 + b"\0"]


def refuse(_fd):
    raise OSError(errno.EMFILE, "too many")


def test_more_pieces_than_a_batch_has_room_for(stack):
    """Chains that do not fit beside others wait; one that never fits is the methods'."""
    rig = Rig(stack, size=1024)
    for _ in range(3):
        rig.queue.add([header(IN, 0)], [2] * 256 + [1], indirect=True)
    rig.queue.add([header(IN, 0)], [1] * 512 + [1], indirect=True)
    assert [len(answer) for answer in rig.run()] == [513] * 4
    assert rig.methods == ["read"]


def test_buffers_in_many_regions(stack):
    """A batch borrows so many regions and no more; neighbours are one buffer."""
    ranges = [(0, 0x1000), *((0x1000 + 0x200 * index, 0x200) for index in range(0x1F8))]
    rig = Rig(stack, ranges=ranges)
    for _ in range(20):
        rig.read(2, 1024)
    rig.read(0, 16 * 512)
    assert rig.run() == [CONTENTS[1024:2048] + b"\0"] * 20 + [CONTENTS[:8192] + b"\0"]
    assert rig.methods == ["read"]


def test_work_is_bounded(stack, monkeypatch):
    """By bytes: a call ends with the transfer that reaches the bound."""
    monkeypatch.setattr("virtio_devices.block.serving.MAX_WORK", 1024)
    rig = Rig(stack)
    for sector in range(5):
        rig.read(sector)
    assert rig.machine.process_queue(0)
    assert len(rig.queue.collect()) == 2
    assert rig.machine.process_queue(0)
    assert len(rig.queue.collect()) == 2
    assert not rig.machine.process_queue(0)
    assert len(rig.queue.collect()) == 1


def test_a_fault_of_the_driver_waits_for_those_before_it(stack):
    """Their transfers are done and given back, and then the device asks for a reset."""
    rig = Rig(stack)
    rig.read(0)
    rig.read(1)
    rig.queue.offer(64)
    rig.machine.process_queue(0)
    assert rig.machine.status & DeviceStatus.DEVICE_NEEDS_RESET
    assert [used.data[0] for used in rig.queue.collect()] == [1, 2]


def test_a_transfer_beyond_the_limit_is_the_methods(stack, monkeypatch):
    """Which refuse it: SIZE_MAX times SEG_MAX bounds what one request moves."""
    monkeypatch.setattr("virtio_devices.block.device.max_request_bytes", lambda _size: 1024)
    rig = Rig(stack)
    rig.read(0, 1536)
    rig.read(0, 1024)
    assert [answer[-1] for answer in rig.run()] == [1, 0]
    assert rig.methods == []


def test_a_write_with_more_room_than_a_status_has_it_in_the_last_byte(stack):
    """What is before it stays as it was."""
    rig = Rig(stack)
    rig.queue.add([header(OUT, 0), b"x" * 512], [7, 2], fill=0xFF)
    assert rig.run() == [b"\xff" * 8 + b"\0"]
    assert rig.methods == ["write"]


def test_a_disk_that_is_read_only_is_not_written_though_its_file_could_be(stack):
    """IOERR, by the device itself."""
    rig = Rig(stack)
    rig.disk.read_only = True
    rig.restart()
    rig.write(0, b"x" * 512)
    assert rig.run() == [b"\1"]
    assert rig.disk.contents() == CONTENTS


def test_a_batch_has_a_bound_in_bytes(stack):
    """The driver sees what was done before much more is begun."""
    rig = Rig(stack, ranges=[(0, 0x400000)], span=0x400000)
    os.ftruncate(rig.file.fileno(), 4 << 20)
    transfers = _core.Transfers(4 << 20, 4 << 20)
    for _ in range(5):
        rig.read(0, 1 << 19)
    assert transfers.run(rig.device._queues[0], rig.file.fileno(), 16, 2**40) == (2, 1 << 20, [])


def test_what_is_behind_a_failure_waits_in_its_order(stack):
    """Also what is no transfer: it was taken already, and is put back first."""
    rig = Rig(stack)
    os.ftruncate(rig.file.fileno(), 4096)
    rig.read(30)
    rig.read(0)
    rig.queue.add([header(GET_ID, 0)], [20, 1])
    rig.read(1)
    rig.queue.add([header(FLUSH, 0)], [1])
    assert [len(answer) for answer in rig.run()] == [513, 513, 21, 513, 1]
    assert rig.methods == ["read", "flush"]
    assert rig.queue.in_flight == frozenset()


def test_the_bound_may_be_passed_by_the_last_request(stack):
    """The call ends there, whatever is left of the bound."""
    rig = Rig(stack)
    rig.write(0, b"x" * 512)
    for _ in range(20):
        rig.queue.add([header(FLUSH, 0)], [1])
    assert rig.machine.process_queue(0)
    assert len(rig.queue.collect()) == 17
    assert not rig.machine.process_queue(0)
    assert len(rig.queue.collect()) == 4


class RestlessQueue(SplitQueue):
    """Says that something is there, whenever it is asked, and it is not."""

    asked = 0

    def enable_notification(self):
        self.asked += 1
        assert self.asked <= self.size
        return True


def test_a_queue_that_promises_and_does_not_keep_it_ends_the_call(stack):
    """After as many looks as it has entries."""
    rig = Rig(stack)
    queue = RestlessQueue(rig.memory, rig.queue.layout)
    assert serve_requests(queue, rig.device._executor, rig.device._file)
    assert queue.asked == 64


@pytest.mark.parametrize("count", [8, 9])
def test_a_batch_borrows_so_many_regions(stack, count):
    """Eight; what lies in more is the methods'."""
    places = [0x80000 + 0x2000 * index for index in range(count)]
    rig = Rig(stack, ranges=[(0, 0x40000), *((place, 0x1000) for place in places)])
    rig.memory.write(0x20000, header(IN, 0))
    rig.queue.write_descriptor(0, 0x20000, 16, 1, 1)
    for index, place in enumerate(places, 1):
        rig.queue.write_descriptor(index, place, 512, 3, index + 1)
    rig.queue.write_descriptor(count + 1, places[-1] + 0x800, 1, 2)
    rig.queue.offer(0)
    assert not rig.machine.process_queue(0)
    found = b"".join(rig.memory.read(place, 512) for place in places)
    assert found == CONTENTS[: 512 * count]
    assert rig.methods == ([] if count == 8 else ["read"])


def test_a_queue_that_is_stopped_while_data_move_gives_nothing_back(stack):
    """Another thread does it; the rings may be something else by now (§2.6.1)."""
    rig = Rig(stack, ranges=[(0, 0x400000)], span=0x400000)
    os.ftruncate(rig.file.fileno(), 1 << 20)
    transfers = _core.Transfers(1 << 20, 1 << 20)
    queue = rig.device._queues[0]
    begun, stopped = threading.Event(), threading.Event()

    def stop():
        begun.set()
        while not queue.in_flight:  # only ever seen while a batch moves: else it has the GIL
            pass
        queue.stop()
        stopped.set()

    thread = threading.Thread(target=stop)
    thread.start()
    begun.wait()
    while not stopped.is_set():
        for _ in range(4):
            rig.read(0, 1 << 18)
        before = rig.memory.load(rig.queue.layout.used_idx, 2)
        transfers.run(queue, rig.file.fileno(), 16, 2**40)
        if not queue.in_flight:
            rig.queue.collect()
    thread.join()
    assert rig.memory.load(rig.queue.layout.used_idx, 2) == before
    assert len(queue.in_flight) == 4


# The memory that listens


def test_a_failed_write_tells_of_nothing(stack):
    """Nothing of the guest's was written."""
    told = []
    rig = Rig(stack, listen=lambda _rig, *wrote: told.append(wrote))
    reader = os.open(f"/proc/self/fd/{rig.file.fileno()}", os.O_RDONLY)
    stack.callback(os.close, reader)
    rig.disk.transfer_fd = reader
    rig.restart()
    rig.write(0, b"x" * 512)
    assert rig.run() == [b"\0"]
    assert (rig.methods, told) == (["write"], [])


def test_what_was_written_is_told_before_the_driver_sees_it(stack):
    """Data and status of what was read, the status of what was written; nothing else."""
    told = []

    def listen(rig, address, size):
        assert rig.memory.load(rig.queue.layout.used_idx, 2) == 0
        told.append(rig.memory.read(address, size))

    rig = Rig(stack, listen=listen)
    rig.read(4)
    rig.write(7, b"x" * 512)
    rig.queue.add([header(IN, 5)], [12, 0, 501])
    rig.run()
    assert told == [b"\5" * 512, b"\0", b"\0", b"\6" * 12, b"\6" * 500 + b"\0"]


def test_a_failed_read_is_told_as_well(stack):
    """A part of it may have been written."""
    told = []
    rig = Rig(stack, listen=lambda _rig, *wrote: told.append(wrote[1]))
    os.ftruncate(rig.file.fileno(), 512)
    rig.read(0, 1024)
    rig.run()
    assert told == [1024]


def test_regions_are_borrowed_while_data_move(stack):
    """Nobody closes them before the batch is given back."""
    refused = []

    def listen(rig, *_wrote):
        with pytest.raises(BufferError) as error:
            rig.memory.regions[0].close()
        refused.append(error)

    rig = Rig(stack, listen=listen)
    rig.read(0)
    rig.run()
    assert len(refused) == 2
    rig.memory.regions[0].close()


def test_a_queue_that_was_stopped_meanwhile_gives_nothing_back(stack):
    """As everywhere; the chains stay in flight."""
    rig = Rig(stack, listen=lambda rig, *_wrote: rig.device.stopped.stop())
    rig.device.stopped = rig.device._queues[0]
    head = rig.read(0)
    assert rig.run() == []
    assert rig.device.stopped.in_flight == {head}


def test_an_error_of_the_listener_is_the_callers(stack):
    """The chains stay in flight."""

    def listen(*_wrote):
        raise KeyError("heard enough")

    rig = Rig(stack, listen=listen)
    head = rig.read(0)
    with pytest.raises(KeyError):
        rig.machine.process_queue(0)
    assert rig.queue.in_flight == {head}


# The rest of its life


def test_one_queue_is_reset_and_goes_on(memory, machine, ring):
    """RING_RESET (§2.6.1): elsewhere, from the beginning, and the other queue does not notice."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(CONTENTS)
        file.flush()
        with RawImage(file.name) as image:
            started = machine(Block(image, queues=2))
            accepted = started.driver.negotiate(int(Feature.RING_RESET) | ring.feature | 1 << 12)
            assert accepted & Feature.RING_RESET
            queues = [ring.make_driver(memory, 0x8000 * index, 8, span=0x8000) for index in (0, 1)]
            for index, queue in enumerate(queues):
                started.driver.add_queue(index, queue)
            started.driver.start()
            queues[0].add([header(IN, 0)], [512, 1])
            started.driver.reset_queue(0)
            before = memory.read(0, 0x8000)
            started.transport.process_queue(0)
            assert memory.read(0, 0x8000) == before
            queues[0] = ring.make_driver(memory, 0x10000, 4, span=0x8000)
            started.driver.add_queue(0, queues[0])
            for index, queue in enumerate(queues):
                queue.add([header(IN, index)], [512, 1])
                started.driver.notify(index)
            started.run()
            answers = [[used.data for used in queue.collect()] for queue in queues]
            assert answers == [[b"\1" * 512 + b"\0"], [b"\2" * 512 + b"\0"]]
            assert started.transport.failure is None


def test_two_threads_on_one_queue_do_no_harm(stack):
    """It is forbidden: one of them is told, and each request is carried out once."""
    rig = Rig(stack, size=1024)
    queue, executor = rig.device._queues[0], rig.device._executor

    def work():
        with suppress(VirtioUsageError):
            serve_requests(queue, executor, rig.device._file)

    for _ in range(20):
        for sector in range(30):
            rig.read(sector)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answers = sorted(rig.run())
        assert answers == [bytes([sector + 1]) * 512 + b"\0" for sector in range(30)]


def test_one_user_of_a_queue_at_a_time(stack):
    """A listener in the midst of a batch cannot begin another one; the batch is not hurt."""
    refused = []

    def listen(rig, *_wrote):
        with pytest.raises(VirtioUsageError, match="in use by another thread") as error:
            serve_requests(rig.device._queues[0], rig.device._executor, rig.device._file)
        refused.append(error)

    rig = Rig(stack, listen=listen)
    rig.read(0)
    rig.read(1)
    assert rig.run() == [b"\1" * 512 + b"\0", b"\2" * 512 + b"\0"]
    assert len(refused) == 4


def test_wrong_calls_are_errors(stack):
    """Of Python's, not of the process's."""
    rig = Rig(stack)
    transfers, queue = _core.Transfers(4096, 512), rig.device._queues[0]
    with pytest.raises(TypeError, match="a queue"):
        transfers.run(queue, 0, 0)
    with pytest.raises(TypeError, match="a queue"):
        transfers.run(rig.memory, 0, 0, 0)
    with pytest.raises(TypeError, match="no integer"):
        transfers.run(queue, 0, None, 0)
    with pytest.raises(ValueError, match="-1 is no number"):
        transfers.run(queue, -1, 0, 0)
    with pytest.raises(TypeError):
        _core.Transfers(4096)
    assert transfers.run(queue, 0, 2**64 - 1, 2**64 - 1) == (0, 0, [])
    rig.memory.regions[0].close()
    with pytest.raises(ValueError, match="closed"):
        transfers.run(queue, 0, 1, 1)


def test_buffers_in_a_closed_region_are_not_touched(stack):
    """Each region is looked at, not only those of the rings."""
    rig = Rig(stack, ranges=[(0, 0x40000), (0x80000, 0x1000)])
    rig.read(0)
    rig.queue.write_descriptor(20, 0x80000, 16, 1, 21)
    rig.queue.write_descriptor(21, 0x80100, 513, 2)
    rig.queue.offer(20)
    rig.memory.regions[1].close()
    queue, executor = rig.device._queues[0], rig.device._executor
    with pytest.raises(ValueError, match="closed"):
        serve_requests(queue, executor, rig.device._file)
    assert [used.data[0] for used in rig.queue.collect()] == [1]
    assert queue.in_flight == frozenset()
