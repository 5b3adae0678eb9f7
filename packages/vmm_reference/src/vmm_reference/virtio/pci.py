"""Virtio devices as functions of the PCI bus, each with messages for its interrupts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vmm_reference.virtio.reports import Reports

if TYPE_CHECKING:
    from virtio_devices import Device
    from vm_memory import GuestMemory
    from vmm_reference.event_loop import EventLoop
    from vmm_reference.pci import PciSegment

logger = logging.getLogger(__name__)


class VirtioPciBus:
    """A `VirtioBus` of PCI slots.

    Args:
        segment: the bus.
        memory: the guest's memory as devices see it.
    """

    def __init__(self, segment: PciSegment, memory: GuestMemory) -> None:
        self._segment = segment
        self._memory = memory

    def attach(self, device: Device, name: str, loop: EventLoop) -> None:
        """Give `device` the lowest free slot; see `VirtioBus`."""
        self._segment.add_virtio(device, self._memory, loop, Reports(logger, name))

    def close(self) -> None:
        """Reset the devices, take them off the bus; their loops have ended. Again is harmless."""
        self._segment.close()
