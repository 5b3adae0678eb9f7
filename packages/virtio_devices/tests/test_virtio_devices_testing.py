"""The driver's side finds what a device does wrong."""

from __future__ import annotations

import threading

import pytest

from virtio_devices import DeviceViolation, VirtioUsageError
from virtio_devices.testing import MmioDriver, PciDriver, SplitDriver


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
