"""The block device on a file against a bytearray, and against drivers that mean no good."""

from __future__ import annotations

import itertools
import struct
import tempfile
from contextlib import ExitStack

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from virtio_devices import (
    Block,
    BlockFeature,
    DeviceStatus,
    DiskImageError,
    DriverViolation,
    Feature,
    MmioTransport,
    RawImage,
)
from virtio_devices.testing import InterruptCounter, MmioDriver, SplitDriver
from vm_memory import GuestMemory

SECTORS = 40
QUEUE = 32
RANGES = [(0, 0x21000), (0x21000, 0xF000)]
FEATURES = int(Feature.INDIRECT_DESC | Feature.EVENT_IDX) | 0x7FFF

sectors = st.integers(0, SECTORS + 2) | st.sampled_from([2**55, 2**64 - 1])
counts = st.integers(0, 6)
cuts = st.lists(st.integers(0, 4096), max_size=5)


def cut(data, places):
    """The same bytes in pieces, some of them empty."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[first:second] for first, second in itertools.pairwise(bounds)]


class MethodsAlone(RawImage):
    """An image whose requests are all carried out by its methods, none in C."""

    transfer_fd = -1


def past_the_page_cache(path, **options):
    """An image whose transfers mostly fail, as its guest's data are not aligned."""
    try:
        return RawImage(path, direct=True, **options)
    except DiskImageError:  # not in this file system
        return RawImage(path, **options)


images = st.sampled_from([RawImage, MethodsAlone, past_the_page_cache])


class Rig:
    """A disk of `SECTORS` sectors behind registers, its file, and a driver of one queue."""

    def __init__(self, stack, *, features=FEATURES, read_only=False, image=RawImage):
        self.file = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
        self.file.truncate(SECTORS * 512)
        self.memory = stack.enter_context(GuestMemory.from_ranges(RANGES))
        image = stack.enter_context(image(self.file.name, read_only=read_only))
        device = Block(image, serial=b"model")
        self.transport = MmioTransport(device, self.memory, InterruptCounter(), kick=bool)
        self.driver = MmioDriver(self.transport)
        self.driver.negotiate(features)
        event_idx = bool(features & Feature.EVENT_IDX)
        self.queue = SplitDriver(self.memory, 0x1000, QUEUE, span=0x2E000, event_idx=event_idx)
        self.driver.add_queue(0, self.queue)
        self.driver.start()

    def contents(self):
        self.file.seek(0)
        return self.file.read()

    def run(self):
        for _ in range(10):
            if not self.transport.process_queue(0):
                break


class DiskModel(RuleBasedStateMachine):
    """Requests in any layout, several at a time, give what a bytearray gives."""

    def __init__(self):
        super().__init__()
        self.stack = ExitStack()
        self.expected = {}

    @initialize(image=images)
    def start(self, image):
        self.rig = Rig(self.stack, image=image)
        self.model = bytearray(SECTORS * 512)

    def submit(self, kind, sector, data, room, layout, answer):
        places, indirect = layout
        readable = cut(struct.pack("<IIQ", kind, 7, sector) + data, places)
        writable = [len(piece) for piece in cut(bytes(room + 1), places)]
        if not indirect and len(self.rig.queue._free) < len(readable) + len(writable):
            indirect = True
        if self.rig.queue._free:
            self.expected[self.rig.queue.add(readable, writable, indirect=indirect)] = answer

    def fits(self, sector, count):
        return sector + count <= SECTORS

    layouts = st.tuples(cuts, st.booleans())

    @rule(sector=sectors, count=counts, layout=layouts)
    def read(self, sector, count, layout):
        if len(self.expected) == QUEUE or not self.rig.queue._free:
            return
        data = bytes(self.model[sector * 512 : (sector + count) * 512]) if sector < 2**32 else b""
        answer = data + b"\0" if self.fits(sector, count) else None
        self.submit(0, sector, b"", count * 512, layout, answer)

    @rule(sector=sectors, count=counts, fill=st.integers(0, 255), layout=layouts)
    def write(self, sector, count, fill, layout):
        if not self.rig.queue._free:
            return
        data = bytes((fill + index) & 0xFF for index in range(count * 512))
        fits = self.fits(sector, count)
        if fits:
            self.model[sector * 512 : (sector + count) * 512] = data
        self.submit(1, sector, data, 0, layout, b"\0" if fits else None)

    @rule(sector=sectors, count=counts, unmap=st.booleans(), layout=layouts)
    def write_zeroes(self, sector, count, unmap, layout):
        if not self.rig.queue._free:
            return
        fits = self.fits(sector, count)
        if fits:
            self.model[sector * 512 : (sector + count) * 512] = bytes(count * 512)
        extent = struct.pack("<QII", sector, count, unmap)
        self.submit(13, 0, extent, 0, layout, b"\0" if fits else None)

    @rule(kind=st.sampled_from([4, 8]), layout=layouts)
    def ask(self, kind, layout):
        if not self.rig.queue._free:
            return
        room = 20 if kind == 8 else 0
        self.submit(kind, 0, b"", room, layout, b"model".ljust(room, b"\0")[:room] + b"\0")

    @rule()
    def run(self):
        self.rig.run()
        for used in self.rig.queue.collect():
            answer = self.expected.pop(used.head)
            if answer is None:
                assert used.data[-1] == 1
            else:
                assert used.data == answer
        assert not self.expected
        assert self.rig.contents() == self.model

    @invariant()
    def healthy(self):
        assert self.rig.transport.failure is None

    def teardown(self):
        self.stack.close()


DiskModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestDiskModel = DiskModel.TestCase


kinds = st.sampled_from([0, 1, 4, 8, 11, 13]) | st.integers(0, 2**32 - 1)
headers = st.builds(struct.pack, st.just("<IIQ"), kinds, st.just(0), sectors)
ranges = st.builds(
    struct.pack, st.just("<QII"), sectors, st.integers(0, 2**32 - 1) | counts, st.integers(0, 3)
)
bodies = st.binary(max_size=600) | st.lists(ranges, max_size=20).map(b"".join)
beginnings = headers | st.binary(max_size=20)
features = st.sampled_from([0, FEATURES, FEATURES & ~int(BlockFeature.DISCARD)])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(beginnings, bodies, cuts, st.integers(0, 2000)), min_size=1, max_size=6),
    features,
    st.booleans(),
    images,
)
def test_any_bytes_in_a_request_get_a_status(requests, accepted, read_only, image):
    """Well-formed chains with anything in them: each comes back with a status of §5.2.6.

    Or it has no room for one, and then the device asks for a reset. A read-only disk stays as it
    is, and no file changes its size.
    """
    with ExitStack() as stack:
        rig = Rig(stack, features=accepted, read_only=read_only, image=image)
        sent = []
        for beginning, body, places, room in requests:
            readable = cut(beginning + body, places)
            writable = [len(piece) for piece in cut(bytes(room), places)]
            if len(readable) + len(writable) <= len(rig.queue._free):
                sent.append((rig.queue.add(readable, writable), room))
        rig.run()
        answers = {used.head: used.data for used in rig.queue.collect()}
        for head, room in sent:
            if not room:
                assert isinstance(rig.transport.failure, DriverViolation)
                assert rig.transport.status & DeviceStatus.DEVICE_NEEDS_RESET
                break
            assert answers[head][-1] in {0, 1, 2}
        after = rig.contents()
        assert len(after) == SECTORS * 512
        assert not read_only or after == bytes(SECTORS * 512)


addresses = st.integers(0, 0x31000) | st.integers(0, 2**64 - 1)
lengths = st.sampled_from([1, 16, 20, 512, 4096]) | st.integers(0, 2**32 - 1)
descriptors = st.tuples(addresses, lengths, st.integers(0, 7), st.integers(0, QUEUE))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(descriptors, min_size=8, max_size=8),
    st.lists(st.integers(0, QUEUE), min_size=1, max_size=8),
    st.binary(max_size=64),
)
def test_any_descriptors_do_no_harm(table, heads, noise):
    """Raw descriptors: nothing but declared errors, and nothing written outside of the disk."""
    with ExitStack() as stack:
        rig = Rig(stack)
        rig.memory.write(0x10000, noise)
        for index, descriptor in enumerate(table):
            rig.queue.write_descriptor(index, *descriptor)
        for head in heads:
            rig.queue.offer(head)
        rig.run()
        needs_reset = bool(rig.transport.status & DeviceStatus.DEVICE_NEEDS_RESET)
        assert needs_reset == isinstance(rig.transport.failure, DriverViolation)
        assert len(rig.contents()) == SECTORS * 512
        rig.driver.write(0x070, 0)
        assert rig.transport.status == 0
