"""What a driver writes into a queue's registers before it starts the device."""

from __future__ import annotations

from virtio_devices.queue.layout import SplitLayout
from virtio_devices.queue.packed_layout import PackedLayout
from virtio_devices.transport.state import QueueRegisters


class QueueSetup:
    """The registers of one queue; anything can be in them until activation checks it.

    Attributes:
        max_size: the largest size that the device offers, in entries.
        size: entries that the driver chose, 0 until it does.
        ready: whether the driver enabled the queue.
        was_reset: whether the driver reset the queue alone, and so may set it up again.
        descriptor_area, driver_area, device_area: guest physical addresses of the parts.
    """

    __slots__ = (
        "descriptor_area",
        "device_area",
        "driver_area",
        "max_size",
        "ready",
        "size",
        "was_reset",
    )

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.clear()

    def clear(self) -> None:
        """Back to the state after a reset."""
        self.size = 0
        self.ready = False
        self.was_reset = False
        self.descriptor_area = 0
        self.driver_area = 0
        self.device_area = 0

    @property
    def areas(self) -> tuple[int, int, int]:
        """The three addresses, in the order in which a layout takes them."""
        return self.descriptor_area, self.driver_area, self.device_area

    def save(self) -> QueueRegisters:
        """What was written."""
        return QueueRegisters(self.size, self.ready, self.was_reset, self.areas)

    def restore(self, registers: QueueRegisters) -> None:
        """Take what was written before."""
        self.size, self.ready, self.was_reset, areas = registers
        self.descriptor_area, self.driver_area, self.device_area = areas

    def split_layout(self) -> SplitLayout:
        """The same as a split queue's layout, unchecked."""
        return SplitLayout(self.size, *self.areas)

    def packed_layout(self) -> PackedLayout:
        """The same as a packed queue's layout, unchecked."""
        return PackedLayout(self.size, *self.areas)
