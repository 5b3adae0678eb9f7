"""The device's side of a split virtqueue (virtio 1.2 §2.7)."""

from __future__ import annotations

from virtio_devices import _core
from virtio_devices.queue.state import QueueState, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from virtio_devices.queue.layout import SplitLayout
    from vm_memory import GuestMemory


class SplitQueue(_core.Ring):
    """Takes chains from the available ring and gives them back in the used ring.

    One thread at a time uses it, except for `stop`. Indices are the device's own: what the
    driver writes into the used ring, or writes back into its own rings later, is never
    believed. The queue does not keep memory from being closed; any use of it raises ValueError
    then.

    Args:
        memory: guest memory that holds the rings and all buffers.
        layout: where the rings are.
        event_idx: whether EVENT_IDX was negotiated.
        indirect: whether INDIRECT_DESC was negotiated.

    Raises:
        InvalidQueueLayout: the rings cannot be used.
    """

    __slots__ = ("_layout",)

    _layout: SplitLayout

    def __new__(  # noqa: D102 - see the class
        cls,
        memory: GuestMemory,
        layout: SplitLayout,
        *,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> Self:
        return cls._at(memory, layout, event_idx, indirect, 0)

    @property
    def layout(self) -> SplitLayout:
        """Where the rings are."""
        return self._layout

    def state(self) -> QueueState:
        """What `restore` needs, besides guest memory; ask `needs_notification` before.

        Raises:
            VirtioUsageError: chains are in flight; give them back, or put them back.
        """
        return state_of(self, self.layout.areas, packed=False)

    @classmethod
    def restore(cls, memory: GuestMemory, state: QueueState) -> Self:
        """A queue that goes on where another one was saved.

        Raises:
            VirtioUsageError: the record is of another kind of queue, or makes no sense.
            InvalidQueueLayout: the rings cannot be used in `memory`.
        """
        layout = state.split_layout()
        return cls._at(memory, layout, state.event_idx, state.indirect, state.position)

    @classmethod
    def _at(
        cls,
        memory: GuestMemory,
        layout: SplitLayout,
        event_idx: bool,
        indirect: bool,
        position: int,
    ) -> Self:
        layout.check(memory)
        queue = super().__new__(
            cls, memory, False, layout.size, layout.areas, event_idx, indirect, position
        )
        queue._layout = layout
        return queue
