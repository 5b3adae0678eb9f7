"""An interrupt line that only counts."""

from __future__ import annotations


class InterruptCounter:
    """Counts its edges; satisfies `virtio_devices.Interrupt`.

    Attributes:
        count: edges since it was made.
    """

    def __init__(self) -> None:
        self.count = 0

    def trigger(self) -> None:
        """Count one edge."""
        self.count += 1
