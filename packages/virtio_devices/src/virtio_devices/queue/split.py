"""The device's side of a split virtqueue (virtio 1.2 §2.7).

Indices are the device's own: what the driver writes into the used ring, or writes back into
its own rings later, is never believed. Memory order: `GuestMemory.load` acquires and `store`
releases; between a store and a load that must not overtake it there is a `vm_memory.fence`.
"""

from __future__ import annotations

import struct

from virtio_devices.errors import (
    InvalidAvailableIndex,
    InvalidHead,
    QueueError,
    VirtioUsageError,
)
from virtio_devices.queue.descriptors import ChainWalker
from virtio_devices.queue.layout import AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY
from virtio_devices.queue.notification import crosses_event
from virtio_devices.queue.state import QueueState
from vm_memory import fence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.layout import SplitLayout
    from vm_memory import GuestMemory

_used_element = struct.Struct("<II")  # id, len (virtio 1.2 §2.7.8)
_UINT32_MAX = 0xFFFF_FFFF


class SplitQueue:
    """Takes chains from the available ring and gives them back in the used ring.

    One thread at a time uses it, except for `stop`.

    Args:
        memory: guest memory that holds the rings and all buffers.
        layout: where the rings are.
        event_idx: whether EVENT_IDX was negotiated.
        indirect: whether INDIRECT_DESC was negotiated.

    Raises:
        InvalidQueueLayout: the rings cannot be used.
    """

    __slots__ = (
        "_added",
        "_event_idx",
        "_in_flight",
        "_indirect",
        "_layout",
        "_memory",
        "_next_avail",
        "_next_used",
        "_running",
        "_walker",
    )

    def __init__(
        self,
        memory: GuestMemory,
        layout: SplitLayout,
        *,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> None:
        layout.check(memory)
        self._memory = memory
        self._layout = layout
        self._event_idx = event_idx
        self._indirect = indirect
        self._walker = ChainWalker(memory, layout.descriptor_table, layout.size, indirect=indirect)
        # By head: the chain, and the index at which it was taken.
        self._in_flight: dict[int, tuple[DescriptorChain, int]] = {}
        self._next_avail = 0
        self._next_used = 0
        self._added = 0  # since the driver was last considered for a notification
        self._running = True

    @property
    def size(self) -> int:
        """Entries of the queue."""
        return self._layout.size

    @property
    def layout(self) -> SplitLayout:
        """Where the rings are."""
        return self._layout

    @property
    def next_avail(self) -> int:
        """Free-running 16-bit index of the next chain to take."""
        return self._next_avail

    @property
    def next_used(self) -> int:
        """Free-running 16-bit index of the next used element to write."""
        return self._next_used

    @property
    def in_flight(self) -> frozenset[int]:
        """Heads that were taken and not given back."""
        return frozenset(self._in_flight)

    def pop(self) -> DescriptorChain | None:
        """Take the next available chain, or None if there is none or the queue was stopped.

        Raises:
            QueueError: the driver's rings or descriptors break a rule. Nothing was taken; the
                next call meets the same fault.
        """
        if not self._pending():
            return None
        head = self._read_head()
        chain = self._walker.collect(head)
        self._in_flight[head] = (chain, self._next_avail)
        self._next_avail = (self._next_avail + 1) & 0xFFFF
        return chain

    def pop_batch(self, limit: int) -> list[DescriptorChain]:
        """Take up to `limit` available chains.

        Raises:
            QueueError: the next chain breaks a rule, and there was none before it.
        """
        chains: list[DescriptorChain] = []
        while len(chains) < limit:
            try:
                chain = self.pop()
            except QueueError:
                if not chains:
                    raise
                break
            if chain is None:
                break
            chains.append(chain)
        return chains

    def put_back(self, chain: DescriptorChain) -> None:
        """Make the chain that was taken last the next one again, as if it had not been taken.

        Chains that were taken one after another are put back in the opposite order. What was
        read or written of them is not undone.

        Raises:
            VirtioUsageError: the chain is not in flight, or not the last one.
        """
        position = self._in_flight[chain.head][1] if self._holds(chain) else None
        if position is None or (position + 1) & 0xFFFF != self._next_avail:
            raise VirtioUsageError(f"the chain at head {chain.head} was not taken last")
        del self._in_flight[chain.head]
        self._next_avail = position

    def add_used(self, chain: DescriptorChain, written: int) -> None:
        """Give a chain back to the driver, in any order; nothing happens in a stopped queue.

        Args:
            chain: one that `pop` returned and that was not given back yet.
            written: bytes from the beginning of the writable buffers that are filled. Of 2^32
                the driver learns 2^32 - 1: the field has no more room, and an underestimate is
                allowed (virtio 1.2 §2.7.8.2).

        Raises:
            VirtioUsageError: the chain is not in flight, or `written` exceeds its buffers.
        """
        self.add_used_batch([(chain, written)])

    def add_used_batch(self, chains: Iterable[tuple[DescriptorChain, int]]) -> None:
        """Give chains back, each with the bytes written, in this order; see `add_used`.

        Raises:
            VirtioUsageError: as `add_used`; no chain was given back.
        """
        chains = list(chains)
        for chain, written in chains:
            self._check_used(chain, written)
        if len({chain.head for chain, _written in chains}) < len(chains):
            raise VirtioUsageError("a chain was given back twice")
        if self._running:
            for chain, written in chains:
                self._add_used(chain, written)

    def _holds(self, chain: DescriptorChain) -> bool:
        """Whether this very chain is in flight; a head alone does not tell."""
        taken = self._in_flight.get(chain.head)
        return taken is not None and taken[0] is chain

    def _check_used(self, chain: DescriptorChain, written: int) -> None:
        if not self._holds(chain):
            raise VirtioUsageError(f"the chain of head {chain.head} is not in flight")
        if not 0 <= written <= chain.writer.size:
            raise VirtioUsageError(
                f"{written:#x} bytes cannot have been written into {chain.writer.size:#x}"
            )

    def _add_used(self, chain: DescriptorChain, written: int) -> None:
        head = chain.head
        del self._in_flight[head]
        layout, memory = self._layout, self._memory
        element = _used_element.pack(head, min(written, _UINT32_MAX))
        memory.write(layout.used_entry(self._next_used), element)
        self._next_used = (self._next_used + 1) & 0xFFFF
        # After the element (§2.7.8.2): the store is a release.
        memory.store(layout.used_idx, self._next_used, 2)
        self._added += 1

    def needs_notification(self) -> bool:
        """Whether the driver must be told of what was added since the last call (§2.7.7.2)."""
        added, self._added = self._added, 0
        if not added or not self._running:
            return False
        fence()  # the index before the driver's wish
        layout, memory = self._layout, self._memory
        if self._event_idx:
            event = memory.load(layout.used_event, 2)
            return crosses_event(event, self._next_used, added)
        return not memory.load(layout.avail_flags, 2) & AVAIL_F_NO_INTERRUPT

    def enable_notification(self) -> bool:
        """Ask the driver for a notification of its next chain; True if one is there already.

        On True the notification may never come: take the chain first (§2.7.10.2).

        Raises:
            InvalidAvailableIndex: the available index runs ahead of the ring.
        """
        if not self._running:
            return False
        if self._event_idx:
            self._memory.store(self._layout.avail_event, self._next_avail, 2)
        else:
            self._memory.store(self._layout.used_flags, 0, 2)
        fence()  # the wish before the driver's index
        return bool(self._pending())

    def disable_notification(self) -> None:
        """Advise the driver to send no notifications for now.

        With EVENT_IDX there is nothing to do: the event stays where it was, and once passed it
        asks for nothing (§2.7.10.2 demands flags of 0 then).
        """
        if self._running and not self._event_idx:
            self._memory.store(self._layout.used_flags, USED_F_NO_NOTIFY, 2)

    def stop(self) -> None:
        """Touch guest memory no more, once a call that is under way has ended; from any thread."""
        self._running = False

    def state(self) -> QueueState:
        """What `restore` needs, besides guest memory; ask `needs_notification` before.

        Raises:
            VirtioUsageError: chains are in flight; give them back, or put them back.
        """
        if self._in_flight:
            raise VirtioUsageError(f"{len(self._in_flight)} chains are in flight")
        return QueueState(
            packed=False,
            size=self.size,
            areas=self._layout.areas,
            event_idx=self._event_idx,
            indirect=self._indirect,
            position=self._next_avail,
        )

    @classmethod
    def restore(cls, memory: GuestMemory, state: QueueState) -> Self:
        """A queue that goes on where another one was saved.

        Raises:
            VirtioUsageError: the record is of another kind of queue, or makes no sense.
            InvalidQueueLayout: the rings cannot be used in `memory`.
        """
        layout = state.split_layout()
        queue = cls(memory, layout, event_idx=state.event_idx, indirect=state.indirect)
        queue._next_avail = queue._next_used = state.position
        return queue

    def _pending(self) -> int:
        """How many chains are available; read once, checked as read."""
        if not self._running:
            return 0
        index = self._memory.load(self._layout.avail_idx, 2)
        pending = (index - self._next_avail) & 0xFFFF
        if pending > self._layout.size:
            raise InvalidAvailableIndex(index, self._next_avail, self._layout.size)
        return pending

    def _read_head(self) -> int:
        """The next head; read once, checked as read."""
        size = self._layout.size
        raw = self._memory.read(self._layout.avail_entry(self._next_avail), 2)
        head = int.from_bytes(raw, "little")
        if head >= size:
            raise InvalidHead(head, size, "does not exist", "2.7.13.2")
        if head in self._in_flight:
            raise InvalidHead(head, size, "is offered while the device holds it", "2.7.13.1")
        return head
