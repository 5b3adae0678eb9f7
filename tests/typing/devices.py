"""Type-checked, never run: a foreign class is a device or a trigger without inheriting anything."""

from __future__ import annotations

from vmm_reference.bus import Bus, Device
from vmm_reference.interrupts import Trigger


class Foreign:
    """Somebody else's device, which is its own interrupt line too."""

    def read(self, offset: int, data: memoryview) -> None:
        """Answer with the offset."""
        data[0] = offset & 0xFF

    def write(self, offset: int, data: memoryview) -> None:
        """Accept anything."""

    def trigger(self) -> None:
        """Raise nothing."""


def a_foreign_class_fits(bus: Bus) -> Trigger:
    """The bus takes it as a device; a device takes it as a trigger."""
    device: Device = Foreign()
    bus.insert(0x100, 1, device)
    return Foreign()
