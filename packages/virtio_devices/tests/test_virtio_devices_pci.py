"""A virtio device as a PCI function, rule by rule (virtio 1.2 §4.1, PCI Local Bus 3.0 §6)."""

from __future__ import annotations

import pytest

from virtio_devices import (
    DeviceFailed,
    DeviceId,
    Feature,
    InvalidQueueLayout,
    PciTransport,
    QueueSetupViolation,
    Rng,
    StatusViolation,
    VirtioUsageError,
)
from virtio_devices.testing import (
    InterruptCounter,
    InterruptPin,
    PackedDriver,
    PciDriver,
    SplitDriver,
)

ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, NEEDS_RESET, FAILED = 1, 2, 8, 4, 64, 128
NO_VECTOR = 0xFFFF
MEMORY, BUS_MASTER, INTERRUPT_DISABLE = 2, 4, 0x400
MSIX_ENABLE, FUNCTION_MASK = 0x8000, 0x4000


class Recorder:
    """A device of two queues that records what happens to it."""

    device_id = DeviceId.BLOCK
    features = 0b101
    queue_sizes = (8, 2)

    def __init__(self):
        self.config = b"\x01\x02\x03\x04\x05\x06"
        self.calls = []
        self.readiness = {}
        self.interrupt = None
        self.queues = None

    def write_config(self, offset, data):
        changed = bytearray(self.config)
        changed[offset : offset + len(data)] = data
        self.config = bytes(changed)

    def accept_features(self, features):
        self.calls.append(("features", features))
        return True

    def activate(self, _memory, queues, interrupt):
        self.calls.append(("activate", sorted(queues)))
        self.queues, self.interrupt = queues, interrupt

    def process_queue(self, index):
        self.calls.append(("process", index))
        return False

    def reset(self):
        self.calls.append(("reset",))


class Slot:
    """A function with everything around it recorded."""

    def __init__(self, device, memory, vectors=3):
        self.kicks = []
        self.reports = []
        self.device = device
        self.vectors = [InterruptCounter() for _ in range(vectors)]
        self.pin = InterruptPin()
        self.transport = PciTransport(
            device,
            memory,
            vectors=self.vectors,
            line=self.pin,
            kick=self.kicks.append,
            report=self.reports.append,
        )
        self.driver = PciDriver(self.transport)

    @property
    def counts(self):
        return [vector.count for vector in self.vectors]

    def pending(self):
        return self.driver.read(0x5000, 4)

    def msix_control(self, bits):
        self.driver.write_config_space(self.driver.msix + 2, bits, 2)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def slot(memory, recorder):
    return Slot(recorder, memory)


@pytest.fixture
def started(memory, slot, recorder):
    """A device with its first queue in operation, MSI-X on: vector 0 config, 1 the queue."""
    slot.driver.enable_msix()
    for vector in range(3):
        slot.driver.set_vector(vector, 0xFEE0_0000 + (vector << 12), 0x20 + vector)
    slot.driver.negotiate()
    slot.driver.set_config_vector(0)
    slot.queue = SplitDriver(memory, 0x1000, 8)
    slot.driver.add_queue(0, slot.queue, vector=1)
    slot.driver.start()
    recorder.calls.clear()
    return slot


@pytest.fixture
def pinned(memory, slot, recorder):
    """The same with MSI-X off."""
    slot.driver.negotiate()
    slot.driver.add_queue(0, SplitDriver(memory, 0x1000, 8))
    slot.driver.start()
    return slot


# Configuration space


def test_identity(slot):
    """Ids, revision and class of a modern virtio block device (§4.1.2)."""
    config = slot.driver.config
    assert (config(0, 2), config(2, 2)) == (0x1AF4, 0x1042)
    assert config(8, 1) == 1
    assert config(9, 3) == 0x018000
    assert (config(0x2C, 2), config(0x2E, 2)) == (0x1AF4, 0x40)
    assert config(0x0E, 1) == 0
    assert config(0x3D, 1) == 1


@pytest.mark.parametrize("offset", [0x00, 0x02, 0x08, 0x0C, 0x18, 0x24, 0x2C, 0x30, 0x34, 0x3D])
def test_read_only_registers_stay(slot, offset):
    """What is hardwired reads the same after any write (§6.1)."""
    before = slot.driver.config(offset, 1)
    slot.driver.write_config_space(offset, ~before & 0xFF, 1)
    assert slot.driver.config(offset, 1) == before


def test_bar_sizing(slot):
    """All ones read back as the size, with the type in the low bits (§6.2.5.1)."""
    slot.driver.write_config_space(0x10, 0xFFFF_FFFF, 4)
    slot.driver.write_config_space(0x14, 0xFFFF_FFFF, 4)
    value = slot.driver.config(0x10, 4) | slot.driver.config(0x14, 4) << 32
    assert value & 0xF == 0b0100
    assert (~value & (1 << 64) - 1 | 0xF) + 1 == 0x8000


def test_memory_is_answered_where_and_when_the_guest_says(slot):
    """The BAR's address counts, once memory is enabled (§6.2.2)."""
    slot.driver.write_config_space(0x10, 0x1234_8000, 4)
    slot.driver.write_config_space(0x14, 0x5, 4)
    assert slot.transport.memory_ranges() == {}
    slot.driver.write_config_space(4, MEMORY | BUS_MASTER, 2)
    assert slot.transport.memory_ranges() == {0: (0x5_1234_8000, 0x8000)}
    slot.driver.write_config_space(4, BUS_MASTER, 2)
    assert slot.transport.memory_ranges() == {}


def test_command_keeps_only_what_means_something(slot):
    """Memory, bus master and interrupt disable; no I/O ports, no parity, no SERR."""
    slot.driver.write_config_space(4, 0xFFFF, 2)
    assert slot.driver.config(4, 2) == MEMORY | BUS_MASTER | INTERRUPT_DISABLE


def test_accesses_of_parts_are_the_whole(slot):
    """Bytes and words read what the double word has, and write their part."""
    slot.driver.write_config_space(0x13, 0xAB, 1)
    slot.driver.write_config_space(0x12, 0xCD, 1)
    assert slot.driver.config(0x10, 4) == 0xABCD_0004
    assert [slot.driver.config(0x10 + index, 1) for index in range(4)] == [4, 0, 0xCD, 0xAB]


@pytest.mark.parametrize("offset", [0x100, 0x104, 0xFFC])
def test_there_are_no_extended_capabilities(slot, offset):
    """Behind 256 bytes everything is zero, and stays."""
    slot.driver.write_config_space(offset, 0xFFFF_FFFF, 4)
    assert slot.driver.config(offset, 4) == 0


def test_structures_have_pages_of_their_own(slot):
    """All in BAR 0, aligned, without overlap, and large enough (§4.1.4)."""
    places = sorted(slot.driver.structures.values())
    assert all(offset % 0x1000 == 0 for offset, _ in places)
    ends = [offset + size for offset, size in places]
    assert all(end <= start for end, (start, _) in zip(ends, places[1:], strict=False))
    assert slot.driver.structures[1][1] >= 0x38
    assert ends[-1] <= 0x8000


def test_without_vectors_there_is_no_msix(memory, recorder):
    """The capability exists only with something behind it."""
    assert Slot(recorder, memory, vectors=0).driver.msix == 0


def test_too_many_vectors_or_queues_are_refused(memory, recorder):
    """What the registers have no room for is the VMM's mistake."""
    with pytest.raises(VirtioUsageError, match="257 vectors"):
        Slot(recorder, memory, vectors=257)
    recorder.queue_sizes = (2,) * 2049
    with pytest.raises(VirtioUsageError, match="2049 queues"):
        Slot(recorder, memory)


# Common configuration


def test_a_device_comes_up(started, recorder):
    """Negotiation, one queue, DRIVER_OK (§3.1.1)."""
    assert started.driver.status == 15
    assert started.transport.features == int(Feature.VERSION_1)
    assert sorted(recorder.queues) == [0]
    assert started.reports == []


def test_queues_are_counted_and_sized(slot):
    """Largest sizes before the driver chooses; zero for queues that are not there (§4.1.4.3.1)."""
    assert slot.driver.common(0x12, 2) == 2
    sizes = []
    for index in (0, 1, 2, NO_VECTOR):
        slot.driver.write_common(0x16, index, 2)
        sizes.append((slot.driver.common(0x18, 2), slot.driver.common(0x1A, 2)))
    assert sizes == [(8, NO_VECTOR), (2, NO_VECTOR), (0, NO_VECTOR), (0, NO_VECTOR)]


def test_a_size_that_the_driver_leaves_is_the_largest(memory, slot, recorder):
    """The driver may reduce it, and need not (§4.1.5.1.3)."""
    slot.driver.negotiate()
    layout = SplitDriver(memory, 0x1000, 8).layout
    for offset, value in (
        (0x20, layout.descriptor_table),
        (0x28, layout.available_ring),
        (0x30, layout.used_ring),
    ):
        slot.driver.write_common(offset, value, 8)
    slot.driver.write_common(0x1C, 1, 2)
    slot.driver.start()
    assert slot.driver.status == 15
    assert recorder.queues[0].size == 8


def test_addresses_are_read_back_by_halves(slot):
    """Halves in any order, or both at once."""
    slot.driver.negotiate()
    slot.driver.write_common(0x24, 1, 4)
    slot.driver.write_common(0x20, 0x2000, 4)
    slot.driver.write_common(0x28, 0x3_0000_4000, 8)
    assert slot.driver.common(0x20, 8) == 0x1_0000_2000
    assert (slot.driver.common(0x2C, 4), slot.driver.common(0x28, 4)) == (3, 0x4000)


def test_a_queue_outside_memory_ends_in_needs_reset(slot):
    """The configuration change is signalled (§2.1.2)."""
    slot.driver.negotiate()
    slot.driver.write_common(0x20, 0xDEAD_0000, 8)
    slot.driver.write_common(0x1C, 1, 2)
    slot.driver.start()
    assert slot.driver.status == 15 | NEEDS_RESET
    assert isinstance(slot.transport.failure, InvalidQueueLayout)
    assert slot.driver.acknowledge() == 2


@pytest.mark.parametrize("value", [0, 2, 0xFFFF])
def test_only_one_enables_a_queue(slot, value):
    """A driver must not write anything else (§4.1.4.3.2); it means nothing."""
    slot.driver.negotiate()
    slot.driver.write_common(0x1C, value, 2)
    assert slot.driver.common(0x1C, 2) == 0
    assert [(type(report), report.clause) for report in slot.reports] == [
        (QueueSetupViolation, "4.1.4.3.2")
    ]


def test_an_enabled_queue_cannot_be_disabled_or_changed(started):
    """Nothing but a reset takes it back (§4.1.4.3.2)."""
    started.driver.write_common(0x1C, 0, 2)
    started.driver.write_common(0x18, 2, 2)
    assert (started.driver.common(0x1C, 2), started.driver.common(0x18, 2)) == (1, 8)


def test_refusals_name_the_rules_of_this_transport(started):
    """Not those of virtio-mmio, whose registers have other names."""
    started.driver.write_common(0x1C, 0, 2)
    started.driver.write_common(0x18, 2, 2)
    assert [str(report) for report in started.reports] == [
        "queue 0 gets 0x0 as queue_enable, which takes nothing but 1 (virtio 1.2 §4.1.4.3.2)",
        "queue 0 is changed while it is ready (virtio 1.2 §4.1.4.3.2)",
    ]


def test_a_queue_that_is_not_there_takes_nothing(slot):
    """Neither is it refused anything."""
    slot.driver.negotiate()
    slot.driver.write_common(0x16, 2, 2)
    slot.driver.write_common(0x1C, 0, 2)
    slot.driver.write_common(0x18, 8, 2)
    assert slot.reports == []


def test_registers_answer_their_own_width(slot):
    """Any other access reads zeros and changes nothing (§4.1.3.1)."""
    slot.driver.write_common(0x14, 1, 2)
    slot.driver.write_common(0x13, 1, 1)
    assert slot.driver.status == 0
    assert [slot.driver.common(0x12, size) for size in (1, 4, 8)] == [0, 0, 0]
    assert slot.driver.common(0x3A, 2) == 0  # queue_reset: RING_RESET is not offered


def test_steps_out_of_order_are_refused(slot):
    """The status machine is that of all transports."""
    slot.driver.write_status(DRIVER)
    assert slot.driver.status == 0
    assert isinstance(slot.reports[-1], StatusViolation)


def test_feature_words_beyond_the_second_are_empty(slot):
    """Any selector; what the driver accepted is read back."""
    slot.driver.negotiate(0b100)
    words = []
    for word in (0, 1, 2, 0xFFFF_FFFF):
        slot.driver.write_common(0x00, word, 4)
        slot.driver.write_common(0x08, word, 4)
        words.append((slot.driver.common(0x04, 4), slot.driver.common(0x0C, 4)))
    assert words == [(0b101 | 3 << 28, 0b100), (0b101, 1), (0, 0), (0, 0)]  # RING_PACKED is bit 34


def test_reset_returns_everything_to_the_beginning(started, recorder):
    """Status, features, queues, mapped vectors and selectors (§2.1.2, §4.1.5.1.2)."""
    started.driver.write_common(0x00, 1, 4)
    started.driver.write_status(0)
    assert recorder.calls == [("reset",)]
    assert started.driver.status == 0
    assert started.driver.common(0x04, 4) & 0xFF == 0b101
    assert started.driver.common(0x10, 2) == NO_VECTOR
    assert (started.driver.common(0x1A, 2), started.driver.common(0x1C, 2)) == (NO_VECTOR, 0)


# Device configuration


def test_device_configuration_takes_any_width(started, recorder):
    """Reads and writes at any offset; zeros beyond the end, writes only inside."""
    assert started.driver.read_config(0, 8) == b"\x01\x02\x03\x04\x05\x06\0\0"
    assert started.driver.read(0x2003, 2) == 0x0504
    started.driver.write(0x2001, 0xBBAA, 2)
    started.driver.write(0x2005, 0xFFFF, 2)
    assert recorder.config == b"\x01\xaa\xbb\x04\x05\x06"


def test_generation_changes_with_the_configuration(started, recorder):
    """A driver that reads it twice notices a change between (§2.5.1)."""
    before = started.driver.common(0x15, 1)
    assert started.driver.common(0x15, 1) == before
    recorder.config = bytes(6)
    assert started.driver.common(0x15, 1) != before


# Notifications of the driver


def test_each_queue_is_kicked_at_its_own_address(memory, slot):
    """By the place, whatever the value: as an ioeventfd of any length does (§4.1.4.4)."""
    slot.driver.negotiate()
    slot.driver.add_queue(0, SplitDriver(memory, 0x1000, 8))
    slot.driver.add_queue(1, SplitDriver(memory, 0x2000, 2, span=0x1000))
    slot.driver.start()
    slot.driver.notify(1)
    for size in (1, 2, 4, 8):
        slot.driver.write(PciTransport.notify_offset(0), 0x77, size)
    assert slot.kicks == [1, 0, 0, 0, 0]
    assert [slot.driver.notify_offset(index) for index in (0, 1)] == [
        PciTransport.notify_offset(0),
        PciTransport.notify_offset(1),
    ]


@pytest.mark.parametrize("offset", [0x6001, 0x6002, 0x6004, 0x6008, 0x7FFC, 0x7FFE])
def test_other_places_kick_nothing(started, offset):
    """Between two queues' addresses, a queue that is not enabled, one that is not there."""
    started.driver.write(offset, 0, 2)
    assert started.kicks == []


def test_a_kick_before_driver_ok_is_ignored(slot):
    """Nothing is consumed before DRIVER_OK (§2.1.2)."""
    slot.driver.negotiate()
    slot.driver.notify(0)
    assert slot.kicks == []
    assert not slot.transport.process_queue(0)


# MSI-X


def test_messages_are_told_to_the_machine(started):
    """Address and data of each unmasked vector, before anything is sent."""
    assert [vector.message for vector in started.vectors] == [
        (0xFEE0_0000, 0x20),
        (0xFEE0_1000, 0x21),
        (0xFEE0_2000, 0x22),
    ]
    assert started.counts == [0, 0, 0]


def test_events_use_their_vectors(started, recorder):
    """Queue and configuration; the pin stays (§4.1.5.1.2)."""
    recorder.interrupt.used_buffer(0)
    assert started.counts == [0, 1, 0]
    recorder.interrupt.config_change()
    assert started.counts == [1, 1, 0]
    assert started.pin.changes == 0
    assert started.driver.acknowledge() == 2  # configuration changes show with MSI-X, too
    assert started.driver.config(6, 2) & 8 == 0


def test_an_event_without_vector_is_silent(started, recorder):
    """NO_VECTOR sends nothing (§4.1.5.1.2)."""
    started.driver.write_common(0x16, 0, 2)
    started.driver.write_common(0x1A, NO_VECTOR, 2)
    started.driver.set_config_vector(NO_VECTOR)
    recorder.interrupt.used_buffer(0)
    recorder.interrupt.config_change()
    assert started.counts == [0, 0, 0]
    assert started.pin.changes == 0


@pytest.mark.parametrize("vector", [3, 256, 0xFFFE])
def test_a_vector_that_does_not_exist_is_refused(started, vector):
    """It reads back as NO_VECTOR (§4.1.5.1.2)."""
    started.driver.write_common(0x10, vector, 2)
    started.driver.write_common(0x16, 0, 2)
    started.driver.write_common(0x1A, vector, 2)
    assert started.driver.common(0x10, 2) == NO_VECTOR
    assert started.driver.common(0x1A, 2) == NO_VECTOR


def test_a_masked_vector_waits(started, recorder):
    """The pending bit shows it; unmasking sends it once (PCI §6.8.2)."""
    started.driver.write(0x4000 + 16 + 12, 1)
    recorder.interrupt.used_buffer(0)
    recorder.interrupt.used_buffer(0)
    recorder.interrupt.config_change()
    assert (started.counts, started.pending()) == ([1, 0, 0], 0b010)
    started.driver.write(0x4000 + 16 + 12, 0)
    assert (started.counts, started.pending()) == ([1, 1, 0], 0)


def test_a_masked_function_waits(started, recorder):
    """The function mask holds all vectors, and each keeps its own mask."""
    started.msix_control(MSIX_ENABLE | FUNCTION_MASK)
    started.driver.write(0x4000 + 12, 1)
    recorder.interrupt.used_buffer(0)
    recorder.interrupt.config_change()
    assert (started.counts, started.pending()) == ([0, 0, 0], 0b011)
    started.msix_control(MSIX_ENABLE)
    assert (started.counts, started.pending()) == ([0, 1, 0], 0b001)


def test_a_message_changed_under_the_mask_is_the_one_that_is_sent(started, recorder):
    """The machine hears of the new message before the pending interrupt goes out."""
    order = []
    vector = started.vectors[1]
    vector.set_message = lambda *message: order.append(message)
    vector.trigger = lambda: order.append("sent")
    started.driver.write(0x4010 + 12, 1)
    recorder.interrupt.used_buffer(0)
    started.driver.set_vector(1, 0xFEE0_7000, 0x77)
    assert order == [(0xFEE0_7000, 0x77), "sent"]


def test_pending_bits_are_read_only_and_end_with_a_reset(started, recorder):
    """A reset device sends nothing late (§2.4.1)."""
    started.driver.write(0x4010 + 12, 1)
    recorder.interrupt.used_buffer(0)
    started.driver.write(0x5000, 0)
    assert started.pending() == 0b010
    started.driver.write_status(0)
    started.driver.write(0x4010 + 12, 0)
    assert (started.pending(), started.counts) == (0, [0, 0, 0])


def test_the_table_begins_masked(slot):
    """Every vector, after reset (PCI §6.8.2.9)."""
    assert [slot.driver.read(0x4000 + 16 * vector + 12) for vector in range(3)] == [1, 1, 1]


def test_reserved_bits_and_what_lies_behind_the_table_stay_zero(slot):
    """Vector Control has one bit; entries that do not exist take nothing."""
    slot.driver.write(0x400C, 0xFFFF_FFFE)
    assert slot.driver.read(0x400C) == 0
    for offset in (0x4030, 0x403C, 0x4FF8, 0x5008):
        slot.driver.write(offset, 2**64 - 1, 8)
        assert slot.driver.read(offset, 8) == 0
    slot.driver.write(0x402C, 2**64 - 1, 8)
    assert slot.driver.read(0x402C, 8) == 1


def test_message_control_shows_the_table_size(slot):
    """Three entries read as two; only enable and function mask can be written (PCI §6.8.2.3)."""
    slot.msix_control(0xFFFF)
    assert slot.driver.config(slot.driver.msix + 2, 2) == MSIX_ENABLE | FUNCTION_MASK | 2


# The pin


def test_without_msix_the_pin_is_used(pinned, recorder):
    """Asserted while a bit of ISR status is set; reading clears both (§4.1.4.5.1)."""
    recorder.interrupt.used_buffer(0)
    assert pinned.pin.active
    assert pinned.driver.config(6, 2) & 8
    recorder.interrupt.config_change()
    assert pinned.driver.acknowledge() == 3
    assert not pinned.pin.active
    assert pinned.driver.config(6, 2) & 8 == 0
    assert pinned.driver.acknowledge() == 0
    assert pinned.pin.changes == 2


def test_a_read_of_no_bytes_leaves_the_isr_alone(pinned, recorder):
    """It once was an OverflowError while a bit was set."""
    recorder.interrupt.used_buffer(0)
    isr, _size = pinned.driver.structures[3]  # VIRTIO_PCI_CAP_ISR_CFG
    pinned.transport.read(isr, memoryview(bytearray()))
    assert pinned.pin.active
    assert pinned.driver.acknowledge() == 1


def test_interrupt_disable_holds_the_pin(pinned, recorder):
    """Interrupt Status shows it nevertheless (PCI §6.2.2, §6.2.3)."""
    pinned.driver.write_config_space(4, INTERRUPT_DISABLE, 2)
    recorder.interrupt.used_buffer(0)
    assert not pinned.pin.active
    assert pinned.driver.config(6, 2) & 8
    pinned.driver.write_config_space(4, 0, 2)
    assert pinned.pin.active


def test_enabling_msix_releases_the_pin(pinned, recorder):
    """A function uses the one or the other (PCI §6.8.2)."""
    recorder.interrupt.used_buffer(0)
    pinned.driver.enable_msix()
    assert not pinned.pin.active
    recorder.interrupt.used_buffer(0)
    assert not pinned.pin.active


def test_a_reset_releases_the_pin(pinned, recorder):
    """ISR status is empty after it."""
    recorder.interrupt.used_buffer(0)
    pinned.transport.reset()
    assert not pinned.pin.active
    assert pinned.driver.acknowledge() == 0
    recorder.interrupt.used_buffer(0)
    assert not pinned.pin.active


def test_a_failure_reaches_the_driver(pinned, recorder):
    """DEVICE_NEEDS_RESET, with a configuration interrupt."""
    recorder.interrupt.needs_reset(DeviceFailed("gone"))
    assert pinned.driver.status == 15 | NEEDS_RESET
    assert pinned.driver.acknowledge() == 2


# The window in the configuration space


def window(driver):
    offset = driver.config(0x34, 1)
    while driver.config(offset, 1) != 9 or driver.config(offset + 3, 1) != 5:
        offset = driver.config(offset + 1, 1)
    return offset


@pytest.mark.parametrize(
    ("offset", "width", "value"), [(0x12, 2, 2), (0x04, 4, 0x3000_0005), (0x2005, 1, 6)]
)
def test_the_window_reads_the_bar(slot, offset, width, value):
    """What is at cap.offset appears in pci_cfg_data (§4.1.4.9.1)."""
    at = window(slot.driver)
    slot.driver.write_config_space(at + 8, offset, 4)
    slot.driver.write_config_space(at + 12, width, 4)
    assert slot.driver.config(at + 16, width) == value


def test_the_window_writes_the_bar(slot):
    """Access by access, a driver can do everything through it."""
    at = window(slot.driver)
    slot.driver.write_config_space(at + 8, 0x14, 4)
    slot.driver.write_config_space(at + 12, 1, 4)
    slot.driver.write_config_space(at + 16, ACKNOWLEDGE, 1)
    assert slot.driver.status == ACKNOWLEDGE
    assert slot.driver.config(at + 16, 1) == ACKNOWLEDGE


@pytest.mark.parametrize(
    ("bar", "offset", "width"),
    [
        (1, 0, 4),
        (0, 0x8000, 4),
        (0, 0x7FFE, 4),
        (0, 0xFFFF_FFFC, 4),
        (0, 0, 3),
        (0, 2, 4),
        (0, 0, 0),
    ],
)
def test_the_window_leads_nowhere_else(slot, bar, offset, width):
    """Another BAR, beyond the end, or no access that a bus knows: nothing happens."""
    at = window(slot.driver)
    slot.driver.write_config_space(at + 4, bar, 1)
    slot.driver.write_config_space(at + 8, offset, 4)
    slot.driver.write_config_space(at + 12, width, 4)
    slot.driver.write_config_space(at + 16, 0x1234_5678, 4)
    assert slot.driver.config(at + 16, 4) == 0x1234_5678
    assert slot.driver.status == 0


# A whole device


def test_the_entropy_device_works(memory):
    """Driver, rings, kick, work, message: a request comes back full."""
    slot = Slot(Rng(lambda size: b"\xaa" * size), memory, vectors=2)
    slot.driver.enable_msix()
    slot.driver.set_vector(1, 0xFEE0_0000, 0x31)
    slot.driver.negotiate(int(Feature.EVENT_IDX))
    queue = SplitDriver(memory, 0x1000, 8, event_idx=True)
    slot.driver.add_queue(0, queue, vector=1)
    slot.driver.start()
    queue.add(writable=[16])
    assert queue.needs_kick()
    slot.driver.notify(0)
    assert not slot.transport.process_queue(slot.kicks.pop())
    [used] = queue.collect()
    assert used.data == b"\xaa" * 16
    assert slot.counts == [0, 1]


def test_one_queue_is_reset_alone(memory):
    """RING_RESET by queue_reset (§4.1.4.3.1): the queue goes on elsewhere, a packed one too."""
    for feature, make in ((0, SplitDriver), (int(Feature.RING_PACKED), PackedDriver)):
        slot = Slot(Rng(bytes), memory)
        assert slot.driver.negotiate(int(Feature.RING_RESET) | feature) & Feature.RING_RESET
        for place in (0x1000, 0x8000):
            queue = make(memory, place, 8, span=0x4000)
            slot.driver.add_queue(0, queue)
            if place == 0x1000:
                slot.driver.start()
            queue.add(writable=[4])
            slot.transport.process_queue(0)
            assert len(queue.collect()) == 1
            slot.driver.reset_queue(0)
        slot.driver.write_common(0x3A, 2, 2)  # is no reset
        assert slot.transport.failure is None
        assert slot.reports == []
