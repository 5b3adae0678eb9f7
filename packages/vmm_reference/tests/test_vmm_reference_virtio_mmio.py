"""Virtio devices as register blocks: where they are, what wakes them, what they raise."""

from __future__ import annotations

import os
import threading

import pytest

from kvm_ioctls import Mmio
from virtio_devices import DeviceStatus, Rng
from virtio_devices.testing import MmioDriver, SplitDriver
from vm_allocator import GsiAllocator, Range, SystemAllocator
from vm_memory import GuestMemory
from vmm_reference.acpi import VirtioMmio
from vmm_reference.bus import Bus
from vmm_reference.errors import UsageError
from vmm_reference.event_loop import EventLoop
from vmm_reference.virtio.mmio import VirtioMmioBus

WINDOW = 0xFED0_0000


class Line:
    """An interrupt line that can be waited for."""

    def __init__(self):
        self.raised = threading.Event()

    def trigger(self):
        self.raised.set()


class FakeVm:
    def __init__(self):
        self.events = []

    def register_ioevent(self, *arguments):
        self.events.append(arguments)

    def unregister_ioevent(self, *arguments):
        self.events.remove(arguments)


class OnBus:
    """A bus's device as a driver sees it."""

    def __init__(self, bus, base):
        self._bus = bus
        self._base = base

    def read(self, offset, data):
        assert self._bus.read(self._base + offset, data)

    def write(self, offset, data):
        assert self._bus.write(self._base + offset, data)


@pytest.fixture
def memory():
    with GuestMemory.from_ranges([(0, 0x20000)]) as memory:
        yield memory


class Rig:
    """A bus with three free lines."""

    def __init__(self, memory):
        self.vm = FakeVm()
        self.bus = Bus("memory")
        self.lines = {}
        allocator = SystemAllocator(
            [(0, 0x20000)],
            platform_mmio=Range.sized(WINDOW, 0x10_0000),
            pci_mmio32=Range(0xC000_0000, 0xC000_FFFF),
            pci_mmio64=Range(1 << 32, 1 << 33),
            gsis=GsiAllocator(5, 7),
        )
        self.virtio = VirtioMmioBus(self.vm, self.bus, allocator, self.line, memory)

    def line(self, gsi):
        return self.lines.setdefault(gsi, Line())


@pytest.fixture
def rig(memory):
    rig = Rig(memory)
    yield rig
    rig.virtio.close()


@pytest.fixture
def loop():
    with EventLoop(lambda error: pytest.fail(str(error))) as loop:
        yield loop


def test_each_device_has_a_place_and_a_line(rig, loop):
    """One page after another in the platform's window, one pin after another."""
    for name in ("first", "second"):
        rig.virtio.attach(Rng(), name, loop)
    assert rig.virtio.slots == [
        VirtioMmio(WINDOW, 0x1000, 5),
        VirtioMmio(WINDOW + 0x1000, 0x1000, 6),
    ]
    places = [event[1:] for event in rig.vm.events]
    assert places == [(Mmio(WINDOW + 0x50), 4, 0), (Mmio(WINDOW + 0x1050), 4, 0)]
    assert MmioDriver(OnBus(rig.bus, WINDOW + 0x1000)).read(8) == 4


def test_lines_end(rig, loop):
    """One sentence when there is no room for a device."""
    for _ in range(3):
        rig.virtio.attach(Rng(), "rng", loop)
    sentence = (
        "3 virtio-mmio devices have an interrupt line each, and no other is left; --virtio-tr"
    )
    with pytest.raises(UsageError, match=sentence):
        rig.virtio.attach(Rng(), "disk7", loop)


@pytest.mark.parametrize("by_exit", [False, True], ids=["ioeventfd", "exit"])
def test_a_request_from_kick_to_interrupt(rig, loop, memory, by_exit):
    """The driver notifies, the loop's thread works, the line is raised."""
    rig.virtio.attach(Rng(bytes), "rng", loop)
    loop.start()
    driver = MmioDriver(OnBus(rig.bus, WINDOW))
    driver.negotiate()
    queue = SplitDriver(memory, 0x1000, 8)
    driver.add_queue(0, queue)
    driver.start()
    queue.add(writable=[16])
    if by_exit:
        driver.notify(0)
    else:
        os.eventfd_write(rig.vm.events[0][0], 1)
    assert rig.lines[5].raised.wait(10)
    assert len(queue.collect()) == 1
    loop.stop()


def test_closing_resets_and_unregisters(rig, loop, memory):
    """The device touches nothing any more, and no kick is registered."""
    device = Rng()
    rig.virtio.attach(device, "rng", loop)
    driver = MmioDriver(OnBus(rig.bus, WINDOW))
    driver.negotiate()
    driver.add_queue(0, SplitDriver(memory, 0x1000, 8))
    driver.start()
    assert driver.status & DeviceStatus.DRIVER_OK
    loop.close()
    rig.virtio.close()
    rig.virtio.close()
    assert driver.status == 0
    assert rig.vm.events == []
