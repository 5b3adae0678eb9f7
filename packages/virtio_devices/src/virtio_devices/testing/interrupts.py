"""Interrupts that only remember."""

from __future__ import annotations


class InterruptCounter:
    """Counts its edges; satisfies `virtio_devices.Interrupt` and `virtio_devices.MsiVector`.

    Attributes:
        count: edges since it was made.
        message: (address, data) as the driver set it, if this is a vector of MSI-X.
    """

    def __init__(self) -> None:
        self.count = 0
        self.message: tuple[int, int] | None = None

    def trigger(self) -> None:
        """Count one edge."""
        self.count += 1

    def set_message(self, address: int, data: int) -> None:
        """Remember the message."""
        self.message = (address, data)


class InterruptPin:
    """A level-triggered pin; satisfies `virtio_devices.InterruptLine`.

    Attributes:
        active: whether it is asserted.
        changes: how often it was asserted or released.
    """

    def __init__(self) -> None:
        self.active = False
        self.changes = 0

    def set_level(self, active: bool) -> None:
        """Assert or release it."""
        self.active = active
        self.changes += 1
