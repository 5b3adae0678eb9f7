"""How the device side tells the driver side that something happened.

Two seams: `Interrupt` is what a transport needs of the machine (a line, an MSI message);
`DeviceInterrupt` is what a device needs of its transport. A device knows its queues' numbers
and nothing of lines, vectors or status bits.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` alone would cost half of this package's import budget
if TYPE_CHECKING:
    from typing import Protocol

    from virtio_devices.errors import DeviceFailed, DriverViolation
else:
    Protocol = object


class Interrupt(Protocol):
    """Something that raises an interrupt; callable from any thread, never blocks."""

    def trigger(self) -> None:
        """Signal one edge."""


class DeviceInterrupt(Protocol):
    """What a device tells its driver; callable from any thread.

    It belongs to one activation: after the reset that ends it, every method does nothing, so
    a worker thread that finishes late disturbs nobody (virtio 1.2 §2.4.1).
    """

    def used_buffer(self, queue: int) -> None:
        """Tell the driver to look at the used ring of the queue with this index.

        Call it when the queue's ``needs_notification()`` says so.
        """

    def config_change(self) -> None:
        """Tell the driver that the configuration space changed; call it after the change."""

    def needs_reset(self, error: DriverViolation | DeviceFailed) -> None:
        """Set DEVICE_NEEDS_RESET for this reason and stop the queues (virtio 1.2 §2.1.2)."""
