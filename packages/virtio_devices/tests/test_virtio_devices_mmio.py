"""The virtio-mmio register block, rule by rule (virtio 1.2 §4.2, §2.1, §2.2, §3.1.1)."""

from __future__ import annotations

import threading

import pytest

from virtio_devices import (
    DeviceFailed,
    DeviceStatus,
    Feature,
    FeatureViolation,
    InvalidAvailableIndex,
    InvalidQueueLayout,
    MmioTransport,
    QueueSetupViolation,
    StatusViolation,
    VirtioUsageError,
)
from virtio_devices.testing import InterruptCounter, PackedDriver, SplitDriver

ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, NEEDS_RESET, FAILED = 1, 2, 8, 4, 64, 128
STATUS, QUEUE_READY, QUEUE_NUM = 0x070, 0x044, 0x038


class Recorder:
    """A device of two queues that records what happens to it."""

    device_id = 42
    features = 0b101
    queue_sizes = (8, 2)

    def __init__(self):
        self.config = b"\x01\x02\x03\x04\x05\x06"
        self.calls = []
        self.suits = True
        self.failure = None
        self.interrupt = None
        self.queues = None

    def write_config(self, offset, data):
        changed = bytearray(self.config)
        changed[offset : offset + len(data)] = data
        self.config = bytes(changed)

    def accept_features(self, features):
        self.calls.append(("features", features))
        return self.suits

    def activate(self, _memory, queues, interrupt):
        self.calls.append(("activate", sorted(queues)))
        self.queues, self.interrupt = queues, interrupt
        if self.failure:
            raise self.failure

    def process_queue(self, index):
        self.calls.append(("process", index))
        if self.failure:
            raise self.failure
        return False

    def reset(self):
        self.calls.append(("reset",))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def block(machine, recorder):
    return machine(recorder)


@pytest.fixture
def started(memory, block, recorder):
    """A device with its first queue in operation."""
    block.driver.negotiate(0b1)
    block.queue = SplitDriver(memory, 0x1000, 8)
    block.driver.add_queue(0, block.queue)
    block.driver.start()
    recorder.calls.clear()
    return block


# Identity


def test_identity(block):
    """Magic, version, device and vendor (§4.2.2.1)."""
    assert [block.driver.read(offset) for offset in (0, 4, 8)] == [0x74726976, 2, 42]
    assert block.driver.read(0xC) != 0


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 2), (0, 8), (2, 4), (1, 1), (0xFE, 4)])
def test_control_registers_are_32_bits_wide(block, offset, size):
    """Any other access reads zeros (§4.2.2.2)."""
    assert block.driver.read(offset, size) == 0


@pytest.mark.parametrize("size", [0, 1, 2, 3, 8])
def test_narrow_and_wide_writes_are_ignored(block, size):
    """A status write of one byte is no status write."""
    block.driver.write(STATUS, 1 if size else 0, size)
    assert block.driver.status == 0


def test_unknown_registers_read_zero_and_ignore_writes(block):
    """Legacy registers and gaps among them, and QueueReset, which this device does not offer."""
    for offset in (0x028, 0x03C, 0x040, 0x048, 0x0C0, 0x0F8):
        block.driver.write(offset, 0xFFFF_FFFF)
        assert block.driver.read(offset) == 0


def test_shared_memory_regions_do_not_exist(block):
    """Length and base of any region are all ones (§4.2.2)."""
    block.driver.write(0x0AC, 3)
    assert {block.driver.read(offset) for offset in (0xB0, 0xB4, 0xB8, 0xBC)} == {0xFFFF_FFFF}


# Status


def test_steps_in_order_are_taken(block, recorder):
    """0, ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK (§3.1.1)."""
    block.driver.negotiate()
    block.driver.start()
    assert block.driver.status == 15
    assert recorder.calls == [("reset",), ("features", int(Feature.VERSION_1)), ("activate", [])]


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ([], DRIVER),
        ([], ACKNOWLEDGE | DRIVER_OK),
        ([], ACKNOWLEDGE | 16),
        ([], ACKNOWLEDGE | NEEDS_RESET),
        ([], 0x100 | ACKNOWLEDGE),
        ([1], DRIVER),
        ([1, 3], ACKNOWLEDGE),
        ([1, 3], ACKNOWLEDGE | DRIVER | DRIVER_OK),
        ([1, 0x81], ACKNOWLEDGE | DRIVER | FAILED),
    ],
)
def test_steps_out_of_order_are_refused(block, before, value):
    """A write that skips, clears or invents bits changes nothing, and the VMM hears of it."""
    for step in before:
        block.driver.write(STATUS, step)
    status = block.driver.status
    block.driver.write(STATUS, value)
    assert block.driver.status == status
    assert isinstance(block.reports[-1], StatusViolation)


def test_several_steps_in_one_write_are_taken_in_order(block):
    """ACKNOWLEDGE and DRIVER together are both, one after the other."""
    block.driver.write(STATUS, ACKNOWLEDGE | DRIVER)
    assert block.driver.status == 3


def test_failed_stops_the_device(started, recorder):
    """After the driver gave up its queues are left alone; only a reset goes on (§2.1.1)."""
    started.queue.add([b"x"])
    started.driver.write(STATUS, 15 | FAILED)
    assert started.driver.status == 15 | FAILED
    assert recorder.queues[0].pop() is None


def test_reset_returns_everything_to_the_beginning(started, recorder):
    """Status, features, queues, interrupts and selectors (§2.1.2, §4.2.2.1)."""
    recorder.interrupt.used_buffer(0)
    started.driver.write(0x014, 1)
    started.driver.write(STATUS, 0)
    assert recorder.calls == [("reset",)]
    assert started.driver.status == 0
    assert started.driver.read(0x060) == 0
    assert started.driver.read(QUEUE_READY) == 0
    assert started.driver.read(0x010) & 0xFF == 0b101
    assert started.transport.features == 0


def test_a_reset_device_reaches_the_driver_no_more(started, recorder):
    """A worker that finishes late signals nothing and writes nothing (§2.4.1)."""
    interrupt, queue = recorder.interrupt, recorder.queues[0]
    started.driver.write(STATUS, 0)
    interrupt.used_buffer(0)
    interrupt.config_change()
    interrupt.needs_reset(DeviceFailed("late"))
    assert started.interrupt.count == 0
    assert started.driver.status == 0
    assert started.driver.read(0x060) == 0
    assert queue.pop() is None


def test_the_vmm_can_reset(started):
    """Before guest memory goes away, for example."""
    started.transport.reset()
    assert started.driver.status == 0


def test_a_device_may_join_its_worker_in_reset(started, recorder):
    """A worker that is about to signal does not lock a reset out."""
    begun = threading.Event()

    def work():
        begun.set()
        for _ in range(1000):
            recorder.interrupt.used_buffer(0)
            recorder.interrupt.needs_reset(DeviceFailed("gone"))

    worker = threading.Thread(target=work)
    recorder.reset = worker.join
    worker.start()
    begun.wait()
    started.driver.write(STATUS, 0)
    assert not worker.is_alive()
    assert started.driver.status == 0


# Features


def test_offered_features_are_the_devices_and_the_rings(block):
    """Both words; nothing beyond them."""
    words = []
    for word in (0, 1, 2, 3, 0xFFFF_FFFF):
        block.driver.write(0x014, word)
        words.append(block.driver.read(0x010))
    assert words == [0b101 | 1 << 28 | 1 << 29, 1 | 1 << 2, 0, 0, 0]


def accept(driver, *words):
    """Write (word, value) pairs and FEATURES_OK; whether the device agrees."""
    driver.write(STATUS, 1)
    driver.write(STATUS, 3)
    for word, value in words:
        driver.write(0x024, word)
        driver.write(0x020, value)
    driver.write(STATUS, 11)
    return bool(driver.status & FEATURES_OK)


def test_a_subset_is_accepted(block, recorder):
    """Any subset with VERSION_1 in it."""
    assert accept(block.driver, (0, 0b100), (1, 1))
    assert block.transport.features == 0b100 | 1 << 32
    assert recorder.calls == [("features", 0b100 | 1 << 32)]


@pytest.mark.parametrize(
    "words",
    [
        [(0, 0b1)],
        [(0, 0b10), (1, 1)],
        [(1, 0b11)],
        [(1, 1), (2, 1)],
        [(1, 1), (0xFFFF_FFFF, 0x8000_0000)],
    ],
    ids=["no VERSION_1", "device bit", "ring bit", "third word", "last word"],
)
def test_other_features_are_refused(block, words):
    """FEATURES_OK stays clear (§2.2.2), and the driver may try again."""
    assert not accept(block.driver, *words)
    assert isinstance(block.reports[-1], FeatureViolation)
    block.driver.write(STATUS, 0)
    assert accept(block.driver, (1, 1))


def test_the_device_has_a_say(block, recorder):
    """A subset that makes no sense to the device is refused."""
    recorder.suits = False
    assert not accept(block.driver, (1, 1))


def test_features_are_fixed_after_negotiation(block):
    """Writes after FEATURES_OK, or before DRIVER, change nothing (§3.1.1)."""
    block.driver.write(0x020, 1)
    assert block.transport.features == 0
    accept(block.driver, (1, 1))
    block.driver.write(0x024, 0)
    block.driver.write(0x020, 0b1)
    assert block.transport.features == 1 << 32
    assert len(block.reports) == 2


def test_a_device_type_cannot_offer_ring_features(memory, recorder):
    """What the queue implementation decides is no device's to promise."""
    recorder.features = int(Feature.RING_PACKED)
    with pytest.raises(VirtioUsageError):
        MmioTransport(recorder, memory, InterruptCounter(), kick=print)


def test_a_device_cannot_offer_a_broken_queue_size(memory, recorder):
    """Sizes are powers of 2."""
    recorder.queue_sizes = (8, 3)
    with pytest.raises(VirtioUsageError):
        MmioTransport(recorder, memory, InterruptCounter(), kick=print)


# Queues


def test_queues_show_their_largest_size(block):
    """Zero for those that do not exist; an index is not cut to 16 bits."""
    sizes = []
    for index in (0, 1, 2, 0x10000, 0xFFFF_FFFF):
        block.driver.write(0x030, index)
        sizes.append(block.driver.read(0x034))
    assert sizes == [8, 2, 0, 0, 0]


def test_a_queue_that_does_not_exist_ignores_everything(block):
    """Reads give zeros, writes are dropped, at every phase."""
    block.driver.negotiate()
    block.driver.write(0x030, 2)
    for offset in (0x038, QUEUE_READY, 0x080, 0x084, 0x090, 0x094, 0x0A0, 0x0A4):
        block.driver.write(offset, 1)
    block.driver.write(QUEUE_READY, 0)
    assert block.driver.read(QUEUE_READY) == 0


def test_addresses_have_64_bits(memory, block, recorder):
    """Halves are written in any order."""
    block.driver.negotiate()
    for offset, value in ((0x084, 1), (0x080, 0x1000), (0x080, 0x2000), (QUEUE_NUM, 8)):
        block.driver.write(offset, value)
    block.driver.write(QUEUE_READY, 1)
    block.driver.start()
    assert isinstance(block.transport.failure, InvalidQueueLayout)
    assert block.transport.failure.value == 0x1_0000_2000


@pytest.mark.parametrize("size", [0, 3, 16, 0x10000, 0x10008, 0xFFFF_FFFF])
def test_impossible_sizes_end_in_needs_reset(memory, block, size):
    """Above the maximum, no power of 2, or right only in its low 16 bits."""
    block.driver.negotiate()
    layout = SplitDriver(memory, 0x1000, 8).layout
    for offset, value in (
        (0x080, layout.descriptor_table),
        (0x090, layout.available_ring),
        (0x0A0, layout.used_ring),
        (QUEUE_NUM, size),
        (QUEUE_READY, 1),
    ):
        block.driver.write(offset, value)
    block.driver.start()
    assert block.driver.status == 15 | NEEDS_RESET
    assert block.driver.acknowledge() == 2
    assert isinstance(block.reports[-1], InvalidQueueLayout)


@pytest.mark.parametrize("size", [0, 9, 0x10000])
def test_impossible_packed_sizes_end_in_needs_reset(memory, block, size):
    """A packed queue may have any size up to the maximum, and no other."""
    block.driver.negotiate(int(Feature.RING_PACKED))
    queue = PackedDriver(memory, 0x1000, 3)
    block.driver.add_queue(0, queue)
    block.driver.write(QUEUE_READY, 0)
    block.driver.write(QUEUE_NUM, size)
    block.driver.write(QUEUE_READY, 1)
    block.driver.start()
    assert block.driver.status == 15 | NEEDS_RESET
    assert isinstance(block.reports[-1], InvalidQueueLayout)


def test_queues_are_packed_if_that_was_accepted(memory, block, recorder):
    """RING_PACKED decides for all queues of a device (§2.8)."""
    block.driver.negotiate(int(Feature.RING_PACKED))
    queue = PackedDriver(memory, 0x1000, 3)
    block.driver.add_queue(0, queue)
    block.driver.start()
    assert recorder.queues[0].layout == queue.layout
    queue.add([b"x"])
    assert recorder.queues[0].pop().reader.read(1) == b"x"


def test_queues_are_set_up_between_features_ok_and_driver_ok(started):
    """Before and after, a queue cannot be set up or enabled (§3.1.1)."""
    started.driver.write(0x030, 1)
    started.driver.write(QUEUE_READY, 1)
    assert started.driver.read(QUEUE_READY) == 0
    started.driver.write(STATUS, 0)
    started.driver.write(QUEUE_NUM, 8)
    assert [type(report) for report in started.reports] == [QueueSetupViolation] * 2


def test_a_ready_queue_cannot_be_changed(memory, block):
    """QueueReady protects the registers (§4.2.2.2)."""
    block.driver.negotiate()
    block.driver.add_queue(0, SplitDriver(memory, 0x1000, 8))
    block.driver.write(QUEUE_NUM, 3)
    block.driver.start()
    assert block.driver.status == 15
    assert str(block.reports[0]) == ("queue 0 is changed while it is ready (virtio 1.2 §4.2.2.2)")


def test_an_odd_ready_value_means_nothing(block):
    """One enables, zero disables, anything else is ignored."""
    block.driver.negotiate()
    block.driver.write(QUEUE_READY, 2)
    assert block.driver.read(QUEUE_READY) == 0


def test_a_driver_can_take_a_queue_back(started, recorder):
    """After QueueReady was cleared the device does not touch the queue (§4.2.2.1)."""
    started.queue.add([b"x"])
    started.driver.write(QUEUE_READY, 0)
    assert started.driver.read(QUEUE_READY) == 0
    assert recorder.queues[0].pop() is None


# Notifications


def test_notification_reaches_the_loop(started, recorder):
    """The register kicks, the loop processes."""
    started.driver.notify(0)
    assert started.kicks == [0]
    started.run()
    assert recorder.calls == [("process", 0)]


@pytest.mark.parametrize("index", [1, 2, 0x10000, 0xFFFF_FFFF])
def test_notification_of_another_queue_is_ignored(started, index):
    """Not enabled, not there, or right only in its low 16 bits."""
    started.driver.notify(index)
    assert started.kicks == []


def test_notification_before_driver_ok_is_ignored(block):
    """Nothing is consumed before DRIVER_OK (§2.1.2), also when a kick comes by an ioeventfd."""
    block.driver.negotiate()
    block.driver.notify(0)
    assert block.kicks == []
    assert not block.transport.process_queue(0)


def test_interrupts_are_shown_until_acknowledged(started, recorder):
    """Each event sets its bit; an acknowledgement clears what it names (§4.2.2.1)."""
    recorder.interrupt.used_buffer(0)
    recorder.interrupt.config_change()
    assert started.interrupt.count == 2
    assert started.driver.read(0x060) == 3
    started.driver.write(0x064, 1)
    assert started.driver.read(0x060) == 2
    assert started.driver.acknowledge() == 2
    assert started.driver.read(0x060) == 0


# Failures


@pytest.mark.parametrize(
    "failure", [InvalidAvailableIndex(9, 0, 8), DeviceFailed("the backing file is gone")]
)
def test_failure_at_work_becomes_needs_reset(started, recorder, failure):
    """Status, configuration interrupt and report, once; then the device rests (§2.1.2)."""
    recorder.failure = failure
    assert not started.transport.process_queue(0)
    assert started.driver.status == 15 | NEEDS_RESET
    assert started.driver.acknowledge() == 2
    assert started.transport.failure is failure
    assert started.reports == [failure]
    assert not started.transport.process_queue(0)
    started.queue.add([b"x"])
    assert recorder.queues[0].pop() is None
    recorder.interrupt.needs_reset(DeviceFailed("again"))
    recorder.interrupt.used_buffer(0)
    assert started.interrupt.count == 1
    assert recorder.calls == [("process", 0)]


def test_failure_at_activation_becomes_needs_reset(block, recorder):
    """A host that cannot serve the device does not take the VMM down."""
    recorder.failure = DeviceFailed("no tap")
    block.driver.negotiate()
    block.driver.start()
    assert block.driver.status == 15 | NEEDS_RESET


def test_a_device_that_was_reset_at_work_has_no_more_to_do(started, recorder):
    """What it says of the queue that it had is void; nobody calls again for it."""

    def process_queue(_index):
        started.transport.reset()
        return True

    recorder.process_queue = process_queue
    assert started.transport.process_queue(0) is False


def test_a_mistake_of_the_device_is_not_hidden(started, recorder):
    """A bug stays a traceback; it is no guest's doing."""
    recorder.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        started.transport.process_queue(0)


def test_a_status_write_may_carry_needs_reset(started, recorder):
    """Drivers add bits to what they read, the device's own bit included."""
    recorder.interrupt.needs_reset(DeviceFailed("gone"))
    started.driver.write(STATUS, started.driver.status | FAILED)
    assert started.driver.status == 15 | NEEDS_RESET | FAILED


def test_a_reset_ends_needs_reset(started, recorder):
    """The driver starts again from 0, and it works again."""
    recorder.interrupt.needs_reset(DeviceFailed("gone"))
    started.driver.negotiate()
    started.driver.start()
    assert started.driver.status == 15
    assert started.transport.failure is None


def test_status_has_names():
    """What a VMM prints."""
    assert DeviceStatus(11) == (
        DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK
    )


# Configuration space


@pytest.mark.parametrize(
    ("offset", "size", "value"),
    [(0, 1, 0x01), (1, 2, 0x0302), (0, 4, 0x04030201), (4, 4, 0x0605), (6, 4, 0), (0xF00, 8, 0)],
)
def test_configuration_reads_have_any_width(block, offset, size, value):
    """Any offset, too; beyond the end are zeros."""
    assert block.driver.read(0x100 + offset, size) == value


def test_configuration_writes_reach_the_device(block, recorder):
    """Only if they lie wholly inside."""
    block.driver.write(0x101, 0xBBAA, 2)
    assert recorder.config == b"\x01\xaa\xbb\x04\x05\x06"
    block.driver.write(0x105, 0xFFFF, 2)
    block.driver.write(0x1F0, 0xFF, 1)
    assert recorder.config == b"\x01\xaa\xbb\x04\x05\x06"


def test_generation_changes_with_the_configuration(block, recorder):
    """The same while nothing changes, another after each change that a driver could see."""
    first = block.driver.read(0x0FC)
    assert block.driver.read_config(0, 6) == recorder.config
    assert block.driver.read(0x0FC) == first
    recorder.config = b"\x11\x12\x13\x14\x15\x16"
    assert block.driver.read(0x0FC) != first


def test_torn_configuration_reads_are_noticed(block, recorder):
    """A change in the middle of a read, seen before the device said a word of it (§2.5.1)."""
    before = block.driver.read(0x0FC)
    block.driver.read(0x100)
    recorder.config = bytes(6)
    block.driver.read(0x104, 2)
    assert block.driver.read(0x0FC) != before
