"""The driver's side of a split virtqueue (virtio 1.2 §2.7).

It keeps the driver's rules, and judges the device by its own. Tests of a device's defences
break the rules on purpose with `write_descriptor` and `offer`.
"""

from __future__ import annotations

import struct

from virtio_devices.errors import DeviceViolation, VirtioUsageError
from virtio_devices.queue.layout import (
    AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESCRIPTOR_SIZE,
    USED_F_NO_NOTIFY,
    SplitLayout,
)
from virtio_devices.queue.notification import crosses_event
from virtio_devices.testing.buffers import Buffers, Request, UsedBuffer, descriptor_format
from vm_memory import fence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm_memory import GuestMemory

_used_element = struct.Struct("<II")


class SplitDriver:
    """One split virtqueue with its rings and buffers in a piece of guest memory.

    Args:
        memory: the guest's memory.
        base: guest physical address of the piece, a multiple of 16. The rings come first,
            buffers after them.
        size: entries of the queue.
        span: bytes of the piece, rings and buffers together.
        event_idx: whether EVENT_IDX was negotiated.

    Attributes:
        layout: where the rings are.
    """

    def __init__(
        self,
        memory: GuestMemory,
        base: int,
        size: int,
        *,
        span: int = 0x10000,
        event_idx: bool = False,
    ) -> None:
        self.layout = SplitLayout.contiguous(base, size)
        self.layout.check(memory)
        self._memory = memory
        self._event_idx = event_idx
        self._buffers = Buffers(memory, self.layout.end, base + span)
        self._free = list(range(size))
        self._chains: dict[int, Request] = {}
        self._avail = 0
        self._used = 0
        self._added = 0  # since the device was last considered for a kick
        memory.write(base, bytes(self.layout.end - base))

    @property
    def in_flight(self) -> frozenset[int]:
        """Heads of the chains that the device was given and did not give back."""
        return frozenset(self._chains)

    # Buffers to the device

    def add(
        self,
        readable: Sequence[bytes] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
        fill: int = 0,
    ) -> int:
        """Make one request available.

        Args:
            readable: the readable buffers, one descriptor each.
            writable: bytes of each writable buffer.
            indirect: put the descriptors into an indirect table (INDIRECT_DESC).
            fill: the byte that writable buffers are full of before the device gets them.

        Returns:
            The head, by which `collect` names the request when it comes back.

        Raises:
            VirtioUsageError: no buffers, or not enough free descriptors.
            MemoryError: no room for the buffers.
        """
        count = len(readable) + len(writable)
        needed = 1 if indirect else count
        if not count or needed > len(self._free):
            raise VirtioUsageError(
                f"{needed} descriptors of {len(self._free)} free ones, {count} buffers"
            )
        request = self._buffers.place(readable, writable, fill)
        if indirect:
            entries = self._linked(request, range(count))
            table, length = self._buffers.place_table(request, entries)
        request.descriptors = [self._free.pop(0) for _ in range(needed)]
        head = request.descriptors[0]
        if indirect:
            self.write_descriptor(head, table, length, DESC_F_INDIRECT)
        else:
            entries = self._linked(request, request.descriptors)
            for index, entry in zip(request.descriptors, entries, strict=True):
                self._memory.write(self._entry(index), entry)
        self._chains[head] = request
        self.offer(head)
        return head

    def needs_kick(self) -> bool:
        """Whether the device wants to be told of what was added since the last call (§2.7.10.1)."""
        added, self._added = self._added, 0
        fence()
        if not added:
            return False
        if self._event_idx:
            event = self._memory.load(self.layout.avail_event, 2)
            return crosses_event(event, self._avail, added)
        return not self._memory.load(self.layout.used_flags, 2) & USED_F_NO_NOTIFY

    # Buffers from the device

    def collect(self) -> list[UsedBuffer]:
        """Take back what the device is done with, in its order.

        Raises:
            DeviceViolation: the used ring breaks a rule.
        """
        index = self._memory.load(self.layout.used_idx, 2)
        count = (index - self._used) & 0xFFFF
        if count > len(self._chains):
            raise DeviceViolation(
                f"{count} chains came back of {len(self._chains)} in flight", "2.7.8"
            )
        return [self._take_used() for _ in range(count)]

    def disable_interrupts(self) -> None:
        """Ask the device for no interrupts for now (§2.7.7.1)."""
        if self._event_idx:
            self._memory.store(self.layout.used_event, (self._used - 1) & 0xFFFF, 2)
        else:
            self._memory.store(self.layout.avail_flags, AVAIL_F_NO_INTERRUPT, 2)

    def enable_interrupts(self, after: int = 1) -> None:
        """Ask for an interrupt once `after` more chains came back (without EVENT_IDX: any)."""
        if self._event_idx:
            self._memory.store(self.layout.used_event, (self._used + after - 1) & 0xFFFF, 2)
        else:
            self._memory.store(self.layout.avail_flags, 0, 2)
        fence()

    # Rules may be broken here

    def write_descriptor(
        self, index: int, address: int, size: int, flags: int = 0, following: int = 0
    ) -> None:
        """Write one entry of the descriptor table, whatever it says."""
        fields = descriptor_format.pack(address, size, flags, following)
        self._memory.write(self._entry(index), fields)

    def offer(self, head: int) -> None:
        """Put any number into the available ring and move the index on."""
        self._memory.write(self.layout.avail_entry(self._avail), head.to_bytes(2, "little"))
        self._avail = (self._avail + 1) & 0xFFFF
        # After the entry (§2.7.13.3.1): the store is a release.
        self._memory.store(self.layout.avail_idx, self._avail, 2)
        self._added += 1

    # Inside

    def _entry(self, index: int) -> int:
        return self.layout.descriptor_table + DESCRIPTOR_SIZE * index

    def _linked(self, request: Request, indices: Sequence[int]) -> list[bytes]:
        """The descriptors of a request, linked by the `indices` at which they will be."""
        following = [*indices[1:], None]
        return [
            descriptor_format.pack(address, size, flags, 0)
            if next_index is None
            else descriptor_format.pack(address, size, flags | DESC_F_NEXT, next_index)
            for (address, size, flags), next_index in zip(request.elements, following, strict=True)
        ]

    def _take_used(self) -> UsedBuffer:
        raw = self._memory.read(self.layout.used_entry(self._used), _used_element.size)
        head, length = _used_element.unpack(raw)
        request = self._chains.get(head)
        if request is None:
            raise DeviceViolation(f"head {head} came back and was not in flight", "2.7.8")
        used = self._buffers.take_back(request, head, length)
        del self._chains[head]
        self._free.extend(request.descriptors)
        self._used = (self._used + 1) & 0xFFFF
        return used
