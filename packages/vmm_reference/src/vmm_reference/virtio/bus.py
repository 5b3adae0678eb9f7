"""The seam between virtio devices and the transport that a machine has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from virtio_devices import Device
    from vmm_reference.event_loop import EventLoop


class VirtioBus(Protocol):
    """Takes virtio devices before the guest starts."""

    def attach(self, device: Device, name: str, loop: EventLoop) -> None:
        """Put `device` where the guest finds it; from now on `loop` runs it.

        Args:
            device: the device; stays the caller's.
            name: what messages call it, e.g. ``disk0 (disk.img)``.
            loop: the event loop whose thread does the device's work.

        Raises:
            HostError: this host has no room for another device.
            UsageError: no machine has.
        """

    def close(self) -> None:
        """Reset the devices and let go of them; their loops have ended. May be called again."""
