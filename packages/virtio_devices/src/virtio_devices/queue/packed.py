"""The device's side of a packed virtqueue (virtio 1.2 §2.8)."""

from __future__ import annotations

from virtio_devices import _core
from virtio_devices.queue.packed_layout import WRAP_BIT
from virtio_devices.queue.state import QueueState, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from virtio_devices.queue.packed_layout import PackedLayout
    from vm_memory import GuestMemory


class PackedQueue(_core.Ring):
    """Takes chains from a packed ring and gives them back in it.

    One ring serves both directions: a used descriptor overwrites an available one. Positions
    and wrap counters are the device's own, and how many descriptors a chain took is remembered
    from the time when it was read; nothing that the driver changes later is believed.
    Everything else is as for `SplitQueue`.

    Args:
        memory: guest memory that holds the ring and all buffers.
        layout: where the ring and the event structures are.
        event_idx: whether EVENT_IDX was negotiated.
        indirect: whether INDIRECT_DESC was negotiated.

    Raises:
        InvalidQueueLayout: the ring cannot be used.
    """

    __slots__ = ("_layout",)

    _layout: PackedLayout

    def __new__(  # noqa: D102 - see the class
        cls,
        memory: GuestMemory,
        layout: PackedLayout,
        *,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> Self:
        both_counters_at_1 = WRAP_BIT  # §2.8.1
        return cls._at(memory, layout, event_idx, indirect, both_counters_at_1)

    @property
    def layout(self) -> PackedLayout:
        """Where the ring and the event structures are."""
        return self._layout

    def state(self) -> QueueState:
        """What `restore` needs, besides guest memory; ask `needs_notification` before.

        Raises:
            VirtioUsageError: chains are in flight; give them back, or put them back.
        """
        return state_of(self, self.layout.areas, packed=True)

    @classmethod
    def restore(cls, memory: GuestMemory, state: QueueState) -> Self:
        """A queue that goes on where another one was saved.

        Raises:
            VirtioUsageError: the record is of another kind of queue, or makes no sense.
            InvalidQueueLayout: the ring cannot be used in `memory`.
        """
        layout = state.packed_layout()
        return cls._at(memory, layout, state.event_idx, state.indirect, state.position)

    @classmethod
    def _at(
        cls,
        memory: GuestMemory,
        layout: PackedLayout,
        event_idx: bool,
        indirect: bool,
        position: int,
    ) -> Self:
        layout.check(memory)
        queue = super().__new__(
            cls, memory, True, layout.size, layout.areas, event_idx, indirect, position
        )
        queue._layout = layout
        return queue
