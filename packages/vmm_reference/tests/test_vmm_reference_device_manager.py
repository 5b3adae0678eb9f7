"""What the devices of a machine hold in its allocator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vm_allocator import IdInUse
from vmm_reference import MemoryConfig
from vmm_reference.device_manager import DeviceManager, SerialLine
from vmm_reference.memory_manager import MemoryManager

MIB = 1 << 20


@pytest.fixture
def make_devices(fake_hypervisor):
    """A function that makes the devices of a machine with the serial ports of these numbers."""
    memory = MemoryManager(MemoryConfig(16 * MIB))
    requests = SimpleNamespace(power_off=None, reset=None, panic=None)
    made = []

    def make(*numbers):
        lines = [SerialLine(number, lambda _: None) for number in numbers]
        made.append(DeviceManager(fake_hypervisor.create_vm(), memory, requests, lines))
        return made[-1]

    yield make
    for devices in made:
        devices.close()
    memory.close()


def test_every_serial_port_holds_its_line(make_devices):
    """Also those on legacy pins: 4 and 3 of COM1 and COM2 are taken as 5 and 7 of the others."""
    allocator = make_devices(1, 2, 3, 4).allocator
    assert {3, 4, 5, 7} <= set(allocator.platform_map().gsis)
    with pytest.raises(IdInUse):
        allocator.gsis.reserve(4)
    assert allocator.gsis.allocate_pin() == 6


def test_the_guests_memory_is_in_the_map(make_devices):
    """RAM as it was laid out, and the PCI windows without what is fixed."""
    told = make_devices(1).allocator.platform_map()
    assert [(one.start, one.size) for one in told.ram] == [(0, 16 * MIB)]
    fixed = ["PCI ECAM", "IOAPIC", "local APIC and messages", "KVM"]
    assert [one.owner for one in told.devices] == fixed
    assert [one.owner for one in told.ports if one.owner.startswith("COM")] == ["COM1"]
