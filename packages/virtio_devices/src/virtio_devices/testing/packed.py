"""The driver's side of a packed virtqueue (virtio 1.2 §2.8).

It keeps the driver's rules, and judges the device by its own. Tests of a device's defences
break the rules on purpose with `write_descriptor` and `offer`.
"""

from __future__ import annotations

from virtio_devices.errors import DeviceViolation, VirtioUsageError
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
    PackedLayout,
)
from virtio_devices.testing.buffers import Buffers, Request, UsedBuffer, descriptor_format
from vm_memory import fence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm_memory import GuestMemory

_FLAGS = 14  # offset in a descriptor


class PackedDriver:
    """One packed virtqueue with its ring and buffers in a piece of guest memory.

    Args:
        memory: the guest's memory.
        base: guest physical address of the piece, a multiple of 16. The ring and the event
            structures come first, buffers after them.
        size: entries of the queue.
        span: bytes of the piece, ring and buffers together.
        event_idx: whether EVENT_IDX was negotiated.

    Attributes:
        layout: where the ring and the event structures are.
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
        self.layout = PackedLayout.contiguous(base, size)
        self.layout.check(memory)
        self._memory = memory
        self._event_idx = event_idx
        self._buffers = Buffers(memory, self.layout.end, base + span)
        self._free = size  # descriptors
        self._identifiers = list(range(size))
        self._requests: dict[int, Request] = {}
        # Counted through all laps: the index is what is left of a division by the size, and the
        # wrap counter of lap 0 is 1.
        self._avail = 0
        self._used = 0
        self._added = 0  # since the device was last considered for a kick
        memory.write(base, bytes(self.layout.end - base))

    @property
    def in_flight(self) -> frozenset[int]:
        """Buffer ids that the device was given and did not give back."""
        return frozenset(self._requests)

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
            The buffer id, by which `collect` names the request when it comes back.

        Raises:
            VirtioUsageError: no buffers, or not enough free descriptors.
            MemoryError: no room for the buffers.
        """
        count = len(readable) + len(writable)
        needed = 1 if indirect else count
        if not count or needed > self._free:
            raise VirtioUsageError(
                f"{needed} descriptors of {self._free} free ones, {count} buffers"
            )
        request = self._buffers.place(readable, writable, fill)
        elements = request.elements
        if indirect:
            entries = [descriptor_format.pack(*buffer[:2], 0, buffer[2]) for buffer in elements]
            table, length = self._buffers.place_table(request, entries)
            elements = [(table, length, DESC_F_INDIRECT)]
        identifier = self._identifiers.pop(0)
        request.descriptors = [(self._avail + step) % self.layout.size for step in range(needed)]
        self._requests[identifier] = request
        self._free -= needed
        self.offer(elements, identifier)
        return identifier

    def needs_kick(self) -> bool:
        """Whether the device wants to be told of what was added since the last call (§2.8.21.2)."""
        added, self._added = self._added, 0
        fence()
        if not added:
            return False
        event = self._memory.load(self.layout.device_event, 4)
        flags = event >> 16
        if flags not in (EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC if self._event_idx else 0):
            raise DeviceViolation(f"event flags are {flags:#x}", "2.8.10")
        if flags == EVENT_DESC:
            position = self._at(event & 0xFFFF, self._avail)
            return added >= self.layout.size or crosses_event(position, self._avail, added)
        return flags == EVENT_ENABLE

    # Buffers from the device

    def collect(self) -> list[UsedBuffer]:
        """Take back what the device is done with, in its order.

        Raises:
            DeviceViolation: a used descriptor breaks a rule.
        """
        found = []
        while self._requests:
            entry = self.layout.descriptor(self._used % self.layout.size)
            flags = self._memory.load(entry + _FLAGS, 2)
            mark = DESC_F_AVAIL | DESC_F_USED
            if flags & mark != (mark if self._wrap(self._used) else 0):
                break
            found.append(self._take_used(entry, flags))
        return found

    def disable_interrupts(self) -> None:
        """Ask the device for no interrupts for now (§2.8.10)."""
        self._memory.store(self.layout.driver_event, EVENT_DISABLE << 16, 4)

    def enable_interrupts(self, after: int = 1) -> None:
        """Ask for an interrupt once `after` more descriptors are passed (without EVENT_IDX: any).

        The device passes as many descriptors with one used chain as the chain took.
        """
        flags, event = EVENT_ENABLE, 0
        if self._event_idx:
            position = self._used + after - 1
            flags, event = EVENT_DESC, position % self.layout.size | self._wrap(position) << 15
        self._memory.store(self.layout.driver_event, event | flags << 16, 4)
        fence()

    # Rules may be broken here

    def write_descriptor(
        self, index: int, address: int, size: int, flags: int = 0, identifier: int = 0
    ) -> None:
        """Write one entry of the descriptor ring, whatever it says."""
        fields = descriptor_format.pack(address, size, identifier, flags)
        self._memory.write(self.layout.descriptor(index), fields)

    def offer(self, elements: Sequence[tuple[int, int, int]], identifier: int = 0) -> None:
        """Make any list of (address, size, flags) available at the next position.

        NEXT is set on all but the last, AVAIL and USED are inverted where `flags` holds them.
        """
        start = self._avail
        descriptors = []
        for number, (address, size, flags) in enumerate(elements, 1):
            mark = DESC_F_AVAIL if self._wrap(self._avail) else DESC_F_USED
            more = DESC_F_NEXT if number < len(elements) else 0
            fields = descriptor_format.pack(address, size, identifier, flags ^ mark | more)
            descriptors.append((self.layout.descriptor(self._avail % self.layout.size), fields))
            self._avail += 1
        for entry, fields in reversed(descriptors):
            self._memory.write(entry, fields[:_FLAGS])
            # After the other fields, and the first one last (§2.8.6): each store is a release.
            self._memory.store(entry + _FLAGS, int.from_bytes(fields[_FLAGS:], "little"), 2)
        self._added += self._avail - start

    # Inside

    def _wrap(self, position: int) -> int:
        """The wrap counter at a position that is counted through all laps."""
        return position // self.layout.size + 1 & 1

    def _at(self, event: int, position: int) -> int:
        """Where in the lap of `position`, or the one before, an event's offset and wrap are."""
        index = event & 0x7FFF
        if index >= self.layout.size:
            raise DeviceViolation(f"event offset {index} of a ring of {self.layout.size}", "2.8.10")
        lap = position // self.layout.size
        return (lap - (self._wrap(position) != event >> 15)) * self.layout.size + index

    def _take_used(self, entry: int, flags: int) -> UsedBuffer:
        raw = self._memory.read(entry, DESCRIPTOR_SIZE)
        _address, length, identifier, _flags = descriptor_format.unpack(raw)
        request = self._requests.get(identifier)
        if request is None:
            raise DeviceViolation(f"buffer id {identifier} came back and was not in flight", "2.8")
        used = self._buffers.take_back(request, identifier, length if flags & DESC_F_WRITE else 0)
        del self._requests[identifier]
        self._identifiers.append(identifier)
        self._free += len(request.descriptors)
        self._used += len(request.descriptors)
        return used
