"""What the drivers of both ring formats do alike: buffers in guest memory, and what came back."""

from __future__ import annotations

import struct

from virtio_devices.errors import DeviceViolation
from virtio_devices.queue.layout import DESC_F_WRITE, DESCRIPTOR_SIZE
from virtio_devices.testing.arena import Arena

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm_memory import GuestMemory

#: addr, len and two fields of 16 bits: flags and next, or id and flags (virtio 1.2 §2.7.5, §2.8.13)
descriptor_format = struct.Struct("<QIHH")


class UsedBuffer:
    """A chain that came back from the device.

    Attributes:
        head: what the driver's `add` returned for it.
        data: the bytes that the device says it wrote, from the beginning of the writable part.
        room: bytes of the writable part.
    """

    __slots__ = ("data", "head", "room")

    def __init__(self, head: int, data: bytes, room: int) -> None:
        self.head = head
        self.data = data
        self.room = room

    def __repr__(self) -> str:
        return f"UsedBuffer(head={self.head}, data={self.data!r}, room={self.room})"


class Request:
    """What a driver must remember of one chain.

    Attributes:
        elements: (address, size, flags) of each buffer, flags without NEXT.
        descriptors: entries of the ring's descriptors that it takes.
        allocations: addresses of the buffers and of the indirect table.
    """

    __slots__ = ("allocations", "descriptors", "elements")

    def __init__(self) -> None:
        self.allocations: list[int] = []
        self.descriptors: list[int] = []
        self.elements: list[tuple[int, int, int]] = []

    @property
    def writable(self) -> list[tuple[int, int]]:
        """(address, size) of each writable buffer."""
        return [(address, size) for address, size, flags in self.elements if flags & DESC_F_WRITE]


class Buffers:
    """Places requests in [start, end) of guest memory, guest physical addresses."""

    def __init__(self, memory: GuestMemory, start: int, end: int) -> None:
        self._memory = memory
        self._arena = Arena(start, end)

    def place(self, readable: Sequence[bytes], writable: Sequence[int], fill: int) -> Request:
        """Put the buffers of a request into memory, writable ones full of a byte.

        Raises:
            MemoryError: no room; nothing stays allocated.
        """
        request = Request()
        for data in readable:
            address = self._allocate(request, len(data))
            self._memory.write(address, data)
            request.elements.append((address, len(data), 0))
        for size in writable:
            address = self._allocate(request, size)
            self._memory.write(address, bytes([fill]) * size)
            request.elements.append((address, size, DESC_F_WRITE))
        return request

    def place_table(self, request: Request, entries: Sequence[bytes]) -> tuple[int, int]:
        """Put an indirect table into memory: its address and bytes.

        Raises:
            MemoryError: no room; nothing of the request stays allocated.
        """
        size = DESCRIPTOR_SIZE * len(entries)
        address = self._allocate(request, size)
        self._memory.write(address, b"".join(entries))
        return address, size

    def take_back(self, request: Request, head: int, length: int) -> UsedBuffer:
        """What the device wrote into a request; its memory is free afterwards.

        Raises:
            DeviceViolation: `length` is more than the request has room for.
        """
        writable = request.writable
        room = sum([size for _address, size in writable])
        if length > room:
            raise DeviceViolation(
                f"{length:#x} bytes were written into head {head}, more than it has", "2.7.8.2"
            )
        data = b"".join([self._memory.read(*buffer) for buffer in writable])[:length]
        self.release(request)
        return UsedBuffer(head, data, room)

    def release(self, request: Request) -> None:
        """Free the memory of a request."""
        for address in request.allocations:
            self._arena.free(address)

    def _allocate(self, request: Request, size: int) -> int:
        try:
            address = self._arena.allocate(size)
        except MemoryError:
            self.release(request)
            raise
        request.allocations.append(address)
        return address
