"""The device's side of a packed virtqueue (virtio 1.2 §2.8).

One ring serves both directions: a used descriptor overwrites an available one. Positions and
wrap counters are the device's own, and how many descriptors a chain took is remembered from
the time when it was read; nothing that the driver changes later is believed. Memory order is
as in the split queue.
"""

from __future__ import annotations

import struct

from virtio_devices.errors import InvalidChain, QueueError, VirtioUsageError
from virtio_devices.queue.chain import DescriptorChain
from virtio_devices.queue.descriptors import PACKED_CLAUSES, Collection
from virtio_devices.queue.layout import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESCRIPTOR_SIZE,
)
from virtio_devices.queue.notification import crosses_event
from virtio_devices.queue.packed_layout import (
    DESC_F_AVAIL,
    DESC_F_USED,
    EVENT_DESC,
    EVENT_DISABLE,
    EVENT_ENABLE,
    WRAP_BIT,
)
from virtio_devices.queue.state import QueueState
from vm_memory import fence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from virtio_devices.queue.packed_layout import PackedLayout
    from vm_memory import GuestMemory

_descriptor = struct.Struct("<QIHH")  # addr, len, id, flags (virtio 1.2 §2.8.13)
_used_descriptor = struct.Struct("<IH")  # len, id
_UINT32_MAX = 0xFFFF_FFFF
_FLAGS = 14  # offset in a descriptor
_LEN = 8


class PackedQueue:
    """Takes chains from a packed ring and gives them back in it.

    One thread at a time uses it, except for `stop`.

    Args:
        memory: guest memory that holds the ring and all buffers.
        layout: where the ring and the event structures are.
        event_idx: whether EVENT_IDX was negotiated.
        indirect: whether INDIRECT_DESC was negotiated.

    Raises:
        InvalidQueueLayout: the ring cannot be used.
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
    )

    def __init__(
        self,
        memory: GuestMemory,
        layout: PackedLayout,
        *,
        event_idx: bool = False,
        indirect: bool = False,
    ) -> None:
        layout.check(memory)
        self._memory = memory
        self._layout = layout
        self._event_idx = event_idx
        self._indirect = indirect
        # By buffer id: the chain, where it was taken, and how many descriptors it took.
        self._in_flight: dict[int, tuple[DescriptorChain, int, int]] = {}
        self._next_avail = WRAP_BIT  # both counters begin at 1 (§2.8.1)
        self._next_used = WRAP_BIT
        self._added = 0  # descriptors passed since the driver was last considered
        self._running = True

    @property
    def size(self) -> int:
        """Entries of the queue."""
        return self._layout.size

    @property
    def layout(self) -> PackedLayout:
        """Where the ring and the event structures are."""
        return self._layout

    @property
    def next_avail(self) -> int:
        """Where the next chain is taken: 15 bits of index, the wrap counter above them."""
        return self._next_avail

    @property
    def next_used(self) -> int:
        """Where the next used descriptor is written, as `next_avail`."""
        return self._next_used

    @property
    def in_flight(self) -> frozenset[int]:
        """Buffer ids that were taken and not given back."""
        return frozenset(self._in_flight)

    def pop(self) -> DescriptorChain | None:
        """Take the next available chain, or None if there is none or the queue was stopped.

        Raises:
            QueueError: the driver's descriptors break a rule. Nothing was taken; the next call
                meets the same fault.
        """
        if not self._pending():
            return None
        chain, descriptors = self._collect()
        self._in_flight[chain.head] = (chain, self._next_avail, descriptors)
        self._next_avail = self._advance(self._next_avail, descriptors)
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
        taken = self._in_flight[chain.head] if self._holds(chain) else None
        if taken is None or self._advance(*taken[1:]) != self._next_avail:
            raise VirtioUsageError(f"the chain of buffer id {chain.head} was not taken last")
        del self._in_flight[chain.head]
        self._next_avail = taken[1]

    def add_used(self, chain: DescriptorChain, written: int) -> None:
        """Give a chain back to the driver, in any order; nothing happens in a stopped queue.

        Args:
            chain: one that `pop` returned and that was not given back yet.
            written: bytes from the beginning of the writable buffers that are filled; of 2^32
                the driver learns 2^32 - 1.

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
        _chain, _position, descriptors = self._in_flight.pop(chain.head)
        descriptor = self._layout.descriptor(self._next_used & ~WRAP_BIT)
        data = _used_descriptor.pack(min(written, _UINT32_MAX), chain.head)
        self._memory.write(descriptor + _LEN, data)
        flags = DESC_F_AVAIL | DESC_F_USED if self._next_used & WRAP_BIT else 0
        if written:
            flags |= DESC_F_WRITE  # §2.8.3
        # After length and id (§2.8.15): the store is a release.
        self._memory.store(descriptor + _FLAGS, flags, 2)
        self._next_used = self._advance(self._next_used, descriptors)
        self._added += descriptors

    def needs_notification(self) -> bool:
        """Whether the driver must be told of what was added since the last call (§2.8.10)."""
        added, self._added = self._added, 0
        if not added or not self._running:
            return False
        fence()  # the flags before the driver's wish
        event = self._memory.load(self._layout.driver_event, 4)
        flags = event >> 16 & 3
        if flags == EVENT_DESC and self._event_idx:
            index = self._next_used & ~WRAP_BIT
            lap_ago = (event ^ self._next_used) & WRAP_BIT
            offset = (event & ~WRAP_BIT & 0xFFFF) - (self.size if lap_ago else 0)
            # After a whole lap the event was passed, wherever it was.
            return added >= self.size or crosses_event(offset, index, added)
        return flags != EVENT_DISABLE

    def enable_notification(self) -> bool:
        """Ask the driver for a notification of its next chain; True if one is there already.

        On True the notification may never come: take the chain first.
        """
        if not self._running:
            return False
        flags = EVENT_DESC if self._event_idx else EVENT_ENABLE
        self._memory.store(self._layout.device_event, self._next_avail | flags << 16, 4)
        fence()  # the wish before the driver's flags
        return self._pending()

    def disable_notification(self) -> None:
        """Advise the driver to send no notifications for now."""
        if self._running:
            self._memory.store(self._layout.device_event, EVENT_DISABLE << 16, 4)

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
            packed=True,
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
            InvalidQueueLayout: the ring cannot be used in `memory`.
        """
        layout = state.packed_layout()
        queue = cls(memory, layout, event_idx=state.event_idx, indirect=state.indirect)
        queue._next_avail = queue._next_used = state.position
        return queue

    def _advance(self, position: int, descriptors: int) -> int:
        index = (position & ~WRAP_BIT) + descriptors
        if index < self.size:
            return position & WRAP_BIT | index
        return (position & WRAP_BIT ^ WRAP_BIT) | index - self.size

    def _pending(self) -> bool:
        """Whether the next descriptor is available (§2.8.1)."""
        if not self._running:
            return False
        descriptor = self._layout.descriptor(self._next_avail & ~WRAP_BIT)
        flags = self._memory.load(descriptor + _FLAGS, 2)
        return _is_available(flags, self._next_avail)

    def _collect(self) -> tuple[DescriptorChain, int]:
        """The chain at the next position, and how many descriptors of the ring it takes."""
        start = position = self._next_avail
        head = start & ~WRAP_BIT
        chain = Collection(self._memory, head, self.size, PACKED_CLAUSES)
        room = self.size - sum([taken[2] for taken in self._in_flight.values()])
        descriptors = 0
        while True:
            entry = self._layout.descriptor(position & ~WRAP_BIT)
            address, size, identifier, flags = _descriptor.unpack(
                self._memory.read(entry, DESCRIPTOR_SIZE)
            )
            if descriptors == room:
                reason = "goes on in descriptors that the device holds"
                raise InvalidChain(head, reason, "2.8.16")
            if not _is_available(flags, position):
                raise InvalidChain(head, "goes on in a descriptor that is not available", "2.8.6")
            descriptors += 1
            if flags & DESC_F_INDIRECT:
                linked = descriptors > 1 or bool(flags & DESC_F_NEXT)
                self._take_table(chain, address, size, linked=linked)
                break
            chain.append(address, size, writable=bool(flags & DESC_F_WRITE))
            if not flags & DESC_F_NEXT:
                break
            position = self._advance(position, 1)
        if identifier in self._in_flight:
            reason = f"has buffer id {identifier}, which the device still holds"
            raise InvalidChain(head, reason, "2.8.21.1")
        taken = DescriptorChain(self._memory, identifier, chain.readable, chain.writable)
        return taken, descriptors

    def _take_table(self, chain: Collection, address: int, size: int, *, linked: bool) -> None:
        """All descriptors of an indirect table, in order; only WRITE means something (§2.8.7)."""
        chain.check_table(address, size, negotiated=self._indirect, nested=False, linked=linked)
        for entry in range(address, address + size, DESCRIPTOR_SIZE):
            raw = self._memory.read(entry, DESCRIPTOR_SIZE)
            buffer, length, _identifier, flags = _descriptor.unpack(raw)
            chain.append(buffer, length, writable=bool(flags & DESC_F_WRITE))


def _is_available(flags: int, position: int) -> bool:
    """AVAIL matches the wrap counter of this position and USED does not (§2.8.1)."""
    expected = DESC_F_AVAIL if position & WRAP_BIT else DESC_F_USED
    return flags & (DESC_F_AVAIL | DESC_F_USED) == expected
