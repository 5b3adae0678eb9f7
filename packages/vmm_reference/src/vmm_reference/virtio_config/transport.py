"""The value of ``--virtio-transport``."""

from __future__ import annotations

import enum

from vmm_reference.errors import OptionError


class VirtioTransport(enum.Enum):
    """The value of ``--virtio-transport``: how the guest reaches its virtio devices."""

    PCI = "pci"
    """A function of the PCI bus for each."""
    MMIO = "mmio"
    """A block of registers for each, which ACPI tells of."""

    @classmethod
    def parse(cls, text: str, flag: str = "--virtio-transport") -> VirtioTransport:
        """Read the value of ``--virtio-transport``."""
        try:
            return cls(text)
        except ValueError:
            raise OptionError(flag, text, "there is: pci, mmio") from None
