"""The driver's side finds what a device does wrong."""

from __future__ import annotations

import threading

import pytest

from virtio_devices import (
    Block,
    DeviceViolation,
    Feature,
    MmioTransport,
    Net,
    PciTransport,
    RawImage,
    Rng,
    VirtioUsageError,
    serve,
)
from virtio_devices.testing import (
    BlockDriver,
    InterruptCounter,
    InterruptPin,
    Loop,
    MmioDriver,
    PackedDriver,
    PciDriver,
    SplitDriver,
    bring_up,
    negotiated_queue,
)


@pytest.fixture
def driver(memory):
    return SplitDriver(memory, 0x1000, 4, span=0x1000)


def give_back(memory, driver, head, length):
    """What a device writes, by hand."""
    element = head.to_bytes(4, "little") + length.to_bytes(4, "little")
    index = memory.load(driver.layout.used_idx, 2)
    memory.write(driver.layout.used_entry(index), element)
    memory.store(driver.layout.used_idx, (index + 1) & 0xFFFF, 2)


def test_a_chain_that_was_not_given_is_noticed(memory, driver):
    """A head that is not in flight cannot come back (§2.7.8)."""
    driver.add([b"x"])
    give_back(memory, driver, 3, 0)
    with pytest.raises(DeviceViolation, match=r"§2\.7\.8"):
        driver.collect()


def test_too_many_chains_are_noticed(memory, driver):
    """More cannot come back than is in flight."""
    driver.add([b"x"])
    give_back(memory, driver, 0, 0)
    give_back(memory, driver, 0, 0)
    with pytest.raises(DeviceViolation):
        driver.collect()


def test_a_length_beyond_the_buffers_is_noticed(memory, driver):
    """A device cannot have written more than it was given (§2.7.8.2)."""
    driver.add(writable=[8])
    give_back(memory, driver, 0, 9)
    with pytest.raises(DeviceViolation) as caught:
        driver.collect()
    assert caught.value.clause == "2.7.8.2"


def test_descriptors_and_memory_come_back(memory, driver):
    """A driver can go on for ever with what it has."""
    for _ in range(50):
        head = driver.add([bytes(1000)], [1000, 1000])
        with pytest.raises(VirtioUsageError):
            driver.add([b"1", b"2"])
        with pytest.raises(MemoryError):
            driver.add(writable=[2000])
        assert driver.in_flight == {head}
        give_back(memory, driver, head, 0)
        assert [used.head for used in driver.collect()] == [head]


def test_a_request_has_buffers(driver):
    """A chain of no descriptors does not exist."""
    with pytest.raises(VirtioUsageError):
        driver.add()


class Registers:
    """A block of plain memory, which is no virtio device."""

    def __init__(self, **fixed):
        self.cells = {0x000: 0x74726976, 0x004: 2, **fixed}

    def read(self, offset, data):
        data[:] = self.cells.get(offset, 0).to_bytes(len(data), "little")

    def write(self, offset, data):
        self.cells[offset] = int.from_bytes(data, "little")


class Stubborn(Registers):
    """Has some registers that no write changes."""

    def __init__(self, stuck):
        super().__init__()
        self.stuck = stuck
        self.cells.update(stuck)

    def write(self, offset, data):
        if offset not in self.stuck:
            super().write(offset, data)


@pytest.mark.parametrize(
    "stuck",
    [{0x000: 0}, {0x004: 1}, {0x070: 1}, {0x070: 0}],
    ids=["magic", "version", "no reset", "no FEATURES_OK"],
)
def test_what_is_no_virtio_device_is_noticed(stuck):
    """Each step of the initialization is checked."""
    with pytest.raises(DeviceViolation):
        MmioDriver(Stubborn(stuck)).negotiate()


@pytest.mark.parametrize(
    "stuck", [{0x034: 2}, {0x034: 4, 0x044: 1}, {0x034: 4, 0x044: 0}], ids=["small", "used", "dead"]
)
def test_a_queue_that_cannot_be_is_noticed(driver, stuck):
    """Too small, in use, or never ready."""
    with pytest.raises(DeviceViolation):
        MmioDriver(Stubborn(stuck)).add_queue(0, driver)


@pytest.mark.parametrize("event_idx", [False, True])
def test_no_notification_is_lost_between_threads(memory, ring, event_idx):
    """Driver and device in two threads, each asleep until told: nothing stands still.

    A lost notification would leave both asleep; each wait ends with an error then.
    """
    count = 3000
    driver, queue = ring.pair(memory, 8, event_idx=event_idx)
    kick, interrupt = threading.Semaphore(0), threading.Semaphore(0)
    failures = []

    def device():
        served = 0
        while served < count:
            queue.disable_notification()
            while (chain := queue.pop()) is not None:
                queue.add_used(chain, 0)
                served += 1
                if queue.needs_notification():
                    interrupt.release()
            if served < count and not queue.enable_notification() and not kick.acquire(timeout=10):
                failures.append("the device was not told")
                return

    thread = threading.Thread(target=device)
    thread.start()
    returned = added = 0
    while returned < count and not failures:
        while added < count and len(driver.in_flight) < 8:
            driver.add([b"x"])
            added += 1
            if driver.needs_kick():
                kick.release()
        driver.enable_interrupts()
        found = len(driver.collect())
        returned += found
        if not found and not interrupt.acquire(timeout=10):
            failures.append("the driver was not told")
    thread.join()
    assert failures == []
    assert returned == count


class Configuration:
    """A function of plain bytes, which is no virtio device."""

    def __init__(self, capabilities=b""):
        self.bytes = bytearray(256)
        self.bytes[:4] = bytes.fromhex("f41a4410")
        self.bytes[6] = 0x10
        self.bytes[0x34] = 0x40 if capabilities else 0
        self.bytes[0x40 : 0x40 + len(capabilities)] = capabilities

    def read_config(self, offset, data):
        data[:] = self.bytes[offset : offset + len(data)]


def test_what_is_no_virtio_function_is_noticed():
    """Another vendor, a transitional device, a list that loops, a structure that is missing."""
    other_vendor, transitional = Configuration(), Configuration()
    other_vendor.bytes[0] = 0x86
    transitional.bytes[2:4] = bytes.fromhex("0110")
    looping = Configuration(bytes.fromhex("0944 1000 0940 1000"))
    for function, clause in (
        (other_vendor, "4.1.2"),
        (transitional, "4.1.2"),
        (looping, "4.1.4"),
        (Configuration(), "4.1.4"),
    ):
        with pytest.raises(DeviceViolation) as caught:
            PciDriver(function)
        assert caught.value.clause == clause


@pytest.mark.parametrize("features", [0, int(Feature.RING_PACKED)], ids=["split", "packed"])
@pytest.mark.parametrize("event_idx", [0, int(Feature.EVENT_IDX)], ids=["flags", "event idx"])
def test_a_queue_is_of_the_negotiated_kind(memory, features, event_idx):
    """The format, and how it asks for interrupts."""
    queue = negotiated_queue(memory, 0x1000, 4, features | event_idx, span=0x1000)
    assert isinstance(queue, PackedDriver if features else SplitDriver)
    assert queue._event_idx == bool(event_idx)
    assert queue.layout.areas[0] == 0x1000


def test_bring_up_sets_up_queues_one_behind_the_other(memory, wire):
    """Each has its piece of memory, and the device runs."""
    loop = Loop()
    transport = MmioTransport(
        Net(wire(), mac=bytes(5) + b"\2"), memory, InterruptCounter(), kick=loop.kick
    )
    wanted = int(Feature.RING_PACKED)
    queues = bring_up(
        MmioDriver(transport), memory, wanted=wanted, sizes=(4, 8), base=0x2000, span=0x4000
    )
    assert [queue.layout.size for queue in queues] == [4, 8]
    assert [queue.layout.areas[0] for queue in queues] == [0x2000, 0x6000]
    assert transport.status == 15
    assert transport.features == Feature.VERSION_1 | Feature.RING_PACKED


class Busy(Rng):
    """Always has more to do, until it had its turn so many times."""

    def __init__(self, turns):
        super().__init__()
        self.turns = turns
        self.calls = 0

    def process_queue(self, _index):
        self.calls += 1
        return self.calls < self.turns


def test_the_loop_works_until_nothing_is_left(memory):
    """As often as the device asks for, for each kick, in the order of the kicks."""
    loop, device = Loop(), Busy(3)
    transport = MmioTransport(device, memory, InterruptCounter(), kick=loop.kick)
    driver = MmioDriver(transport)
    bring_up(driver, memory)
    driver.notify(0)
    driver.notify(0)
    assert loop.kicks == [0, 0]
    loop.run(transport)
    assert (device.calls, loop.kicks) == (4, [])


def test_a_device_without_an_end_is_noticed(memory):
    """A test does not hang because of it."""
    loop = Loop()
    transport = MmioTransport(Busy(10**9), memory, InterruptCounter(), kick=loop.kick)
    driver = MmioDriver(transport)
    bring_up(driver, memory)
    driver.notify(0)
    with pytest.raises(VirtioUsageError, match="queue 0 has more work after"):
        loop.run(transport)


def test_the_loop_waits_for_descriptors(network):
    """A frame arrives without a kick."""
    net = network()
    net.driver.post(1, 1526)
    net.wire.far[0].send(bytes(12) + b"f" * 60)
    Loop().run(net.machine.transport, seconds=10)
    assert [frame for _header, frame in net.driver.receive()] == [b"f" * 60]


def test_the_network_driver_knows_packed_rings(network):
    """Both formats, as negotiated."""
    net = network(Feature.RING_PACKED)
    assert isinstance(net.driver.queues[0], PackedDriver)
    net.driver.post(1, 1526)
    net.inject(b"in".ljust(60))
    net.send(b"out".ljust(60))
    assert [frame for _header, frame in net.driver.receive()] == [b"in".ljust(60)]
    assert net.wire.arrived() == [bytes(12) + b"out".ljust(60)]


@pytest.mark.parametrize("pci", [False, True], ids=["mmio", "pci"])
@pytest.mark.parametrize("features", [0, int(Feature.RING_PACKED)], ids=["split", "packed"])
def test_a_disk_is_read_and_written(memory, tmp_path, pci, features):
    """Each request by its name, on each transport, in each format."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 16))
    loop = Loop()
    with RawImage(path) as image:
        device = Block(image, serial=b"serial")
        transport, driver = behind(pci, device, memory, loop)
        disk = BlockDriver(driver, memory, span=0x8000)
        disk.start(features | int(Feature.EVENT_IDX | Feature.INDIRECT_DESC) | 0x7FFF)
        heads = [
            disk.write(3, b"x" * 1024, indirect=True),
            disk.read(3, 2),
            disk.write_zeroes(4, 1, unmap=True),
            disk.read(4),
            disk.discard((3, 1)),
            disk.flush(),
            disk.get_id(),
            disk.request(99),
            disk.read(1 << 40),
        ]
        loop.run(transport)
        answers = {answer.head: answer for answer in disk.answers()}
    found = [(answers[head].status, answers[head].data) for head in heads]
    assert found == [
        (0, b""),
        (0, b"x" * 1024),
        (0, b""),
        (0, bytes(512)),
        (0, b""),
        (0, b""),
        (0, b"serial".ljust(20, b"\0")),
        (2, b""),
        (1, b"\xff" * 512),
    ]


class Liar(Rng):
    """A disk that does nothing but to claim that it did."""

    def __init__(self, serve_chain):
        super().__init__()
        self._serve_chain = serve_chain

    def process_queue(self, _index):
        return serve(self._queue, self._serve_chain)

    def activate(self, memory, queues, interrupt):
        super().activate(memory, queues, interrupt)
        self._queue = queues[0]


def claim_everything(chain):
    return chain.writer.size


def claim_one_byte(chain):
    chain.writer.write(b"\0")
    return 1


def claim_nothing(_chain):
    return 0


def write_a_strange_status(chain):
    chain.writer.write(bytes(chain.writer.size - 1) + b"\3")
    return chain.writer.size


@pytest.mark.parametrize("features", [0, int(Feature.RING_PACKED)], ids=["split", "packed"])
@pytest.mark.parametrize(
    ("liar", "problem"),
    [
        (claim_everything, "came back with status 0xff"),
        (claim_one_byte, "without status: 1 bytes of 513"),
        (claim_nothing, "without status: 0 bytes of 513"),
        (write_a_strange_status, "came back with status 0x3"),
    ],
)
def test_a_disk_that_does_not_answer_is_noticed(memory, features, liar, problem):
    """Nothing that was in the buffers before passes for a status, and the length must reach it."""
    loop = Loop()
    transport = MmioTransport(Liar(liar), memory, InterruptCounter(), kick=loop.kick)
    disk = BlockDriver(MmioDriver(transport), memory, span=0x8000)
    disk.start(features)
    disk.read(0)
    loop.run(transport)
    with pytest.raises(DeviceViolation, match=problem):
        disk.answers()


@pytest.mark.parametrize("fill", [0, 0xA5])
def test_buffers_hold_what_the_test_wants_until_the_device_writes(ring, memory, fill):
    """What a device did not write can be told from what it did."""
    driver, queue = ring.pair(memory)
    driver.add(writable=[4, 4], fill=fill)
    chain = queue.pop()
    chain.writer.write(b"data")
    queue.add_used(chain, 8)
    (used,) = driver.collect()
    assert (used.data, used.room) == (b"data" + bytes([fill]) * 4, 8)


def behind(pci, device, memory, loop):
    if pci:
        function = PciTransport(device, memory, vectors=[], line=InterruptPin(), kick=loop.kick)
        return function, PciDriver(function)
    block = MmioTransport(device, memory, InterruptCounter(), kick=loop.kick)
    return block, MmioDriver(block)


@pytest.mark.parametrize("vector", [0, 33])
def test_masks_hold_messages_back(memory, vector):
    """One vector's, or the function's; what waits is sent once both are gone."""
    vectors = [InterruptCounter() for _ in range(34)]
    loop = Loop()
    function = PciTransport(Rng(), memory, vectors=vectors, line=InterruptPin(), kick=loop.kick)
    driver = PciDriver(function)
    driver.enable_msix()
    driver.set_vector(vector, address=0xFEE00000, data=0x41, masked=True)
    features = driver.negotiate()
    queue = negotiated_queue(memory, 0x1000, 4, features)
    driver.add_queue(0, queue, vector=vector)
    driver.start()
    driver.mask_function()
    queue.add(writable=[1])
    driver.notify(0)
    loop.run(function)
    assert (vectors[vector].count, driver.is_pending(vector)) == (0, True)
    driver.mask_vector(vector, masked=False)
    assert (vectors[vector].count, driver.is_pending(vector)) == (0, True)
    driver.mask_function(masked=False)
    assert (vectors[vector].count, driver.is_pending(vector)) == (1, False)
    assert vectors[vector].message == (0xFEE00000, 0x41)
