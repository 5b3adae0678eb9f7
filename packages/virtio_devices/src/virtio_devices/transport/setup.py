"""What a driver writes into a queue's registers before the device starts, and the queue of it."""

from __future__ import annotations

from virtio_devices.features import Feature
from virtio_devices.queue.layout import SplitLayout
from virtio_devices.queue.packed import PackedQueue
from virtio_devices.queue.packed_layout import PackedLayout
from virtio_devices.queue.split import SplitQueue
from virtio_devices.transport.state import QueueRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.queue.interface import Queue
    from virtio_devices.queue.state import QueueState
    from vm_memory import GuestMemory

_EVENT_IDX = int(Feature.EVENT_IDX)
_INDIRECT_DESC = int(Feature.INDIRECT_DESC)
_RING_PACKED = int(Feature.RING_PACKED)


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

    def make_queue(self, memory: GuestMemory, features: int) -> Queue:
        """The queue that was set up, of the kind that was negotiated.

        Raises:
            QueueSetupViolation: nothing can be a queue there.
        """
        layout = self._layout(memory, features)
        event_idx = bool(features & _EVENT_IDX)
        indirect = bool(features & _INDIRECT_DESC)
        if isinstance(layout, PackedLayout):
            return PackedQueue(memory, layout, event_idx=event_idx, indirect=indirect)
        return SplitQueue(memory, layout, event_idx=event_idx, indirect=indirect)

    def restore_queue(self, memory: GuestMemory, features: int, state: QueueState) -> Queue:
        """The queue that was in operation; stopped, if it is not enabled any more.

        Raises:
            QueueSetupViolation: nothing can be a queue there.
        """
        self._layout(memory, features)
        queue = (PackedQueue if state.packed else SplitQueue).restore(memory, state)
        if not self.ready:
            queue.stop()
        return queue

    def _layout(self, memory: GuestMemory, features: int) -> SplitLayout | PackedLayout:
        kind = PackedLayout if features & _RING_PACKED else SplitLayout
        layout = kind(self.size, *self.areas)
        layout.check(memory, self.max_size)
        return layout
