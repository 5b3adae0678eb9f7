"""A driver for a block device, as far as tests need one (virtio 1.2 §5.2.6)."""

from __future__ import annotations

import struct

from virtio_devices.block.request import (
    S_IOERR,
    S_OK,
    S_UNSUPP,
    T_DISCARD,
    T_FLUSH,
    T_GET_ID,
    T_IN,
    T_OUT,
    T_WRITE_ZEROES,
)
from virtio_devices.errors import DeviceViolation
from virtio_devices.testing.queues import bring_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtio_devices.testing.buffers import UsedBuffer
    from virtio_devices.testing.packed import PackedDriver
    from virtio_devices.testing.queues import TransportDriver
    from virtio_devices.testing.split import SplitDriver
    from vm_memory import GuestMemory

_STATUSES = (S_OK, S_IOERR, S_UNSUPP)

#: What buffers are full of until the device writes: no status, and unlike an empty sector.
_UNWRITTEN = 0xFF

_header = struct.Struct("<IIQ")  # type, reserved, sector
_range = struct.Struct("<QII")  # sector, num_sectors, flags


class BlockAnswer:
    """How a request ended.

    Attributes:
        head: what the method that made the request returned.
        status: VIRTIO_BLK_S_OK is 0, IOERR 1, UNSUPP 2.
        data: what was read; 0xFF where nothing was.
    """

    __slots__ = ("data", "head", "status")

    def __init__(self, head: int, status: int, data: bytes) -> None:
        self.head = head
        self.status = status
        self.data = data

    def __repr__(self) -> str:
        return f"BlockAnswer(head={self.head}, status={self.status}, data={self.data!r})"


class BlockDriver:
    """Makes requests of a disk through one of its queues.

    It notifies the device whenever the device wants that; somebody else lets the device work, for
    example a `Loop`. Sectors have 512 bytes.

    Args:
        transport: reaches the device's registers.
        memory: the guest's memory.
        base: guest physical address of the piece for the rings and buffers.
        span: bytes of the piece.
        queue_size: entries of the queue.

    Attributes:
        queue: the queue, from `start` on.
    """

    queue: SplitDriver | PackedDriver

    def __init__(
        self,
        transport: TransportDriver,
        memory: GuestMemory,
        base: int = 0x1000,
        *,
        span: int = 0x40000,
        queue_size: int = 64,
    ) -> None:
        self._transport = transport
        self._memory = memory
        self._base = base
        self._span = span
        self._queue_size = queue_size

    def start(self, wanted: int = 0) -> None:
        """Negotiate, set up the first queue, and start the device."""
        sizes = [self._queue_size]
        (self.queue,) = bring_up(
            self._transport,
            self._memory,
            wanted=wanted,
            sizes=sizes,
            base=self._base,
            span=self._span,
        )

    # Requests; each returns the head by which its answer is known

    def read(self, sector: int, count: int = 1, *, indirect: bool = False) -> int:
        """Read sectors."""
        return self.request(T_IN, sector, room=512 * count, indirect=indirect)

    def write(self, sector: int, data: bytes, *, indirect: bool = False) -> int:
        """Write sectors."""
        return self.request(T_OUT, sector, data, indirect=indirect)

    def flush(self) -> int:
        """Make stable what was written."""
        return self.request(T_FLUSH)

    def get_id(self) -> int:
        """Ask for the serial number."""
        return self.request(T_GET_ID, room=20)

    def discard(self, *ranges: tuple[int, int]) -> int:
        """Discard ranges, each a sector and a number of sectors."""
        data = b"".join([_range.pack(sector, count, 0) for sector, count in ranges])
        return self.request(T_DISCARD, data=data)

    def write_zeroes(self, sector: int, count: int, *, unmap: bool = False) -> int:
        """Write zeros over sectors."""
        return self.request(T_WRITE_ZEROES, data=_range.pack(sector, count, int(unmap)))

    def request(
        self,
        kind: int,
        sector: int = 0,
        data: bytes = b"",
        *,
        room: int = 0,
        indirect: bool = False,
    ) -> int:
        """Any request, also one that the device must refuse: header, data, room, status byte."""
        readable: Sequence[bytes] = [_header.pack(kind, 0, sector), *([data] if data else [])]
        writable = [*([room] if room else []), 1]
        head = self.queue.add(readable, writable, indirect=indirect, fill=_UNWRITTEN)
        if self.queue.needs_kick():
            self._transport.notify(0)
        return head

    def answers(self) -> list[BlockAnswer]:
        """The answers that came since the last call.

        Raises:
            DeviceViolation: a request came back without a status, or with one that is none.
        """
        return [_answer(used) for used in self.queue.collect()]


def _answer(used: UsedBuffer) -> BlockAnswer:
    """The status is the last byte that there is room for: a length below that leaves it out."""
    if len(used.data) != used.room:
        raise DeviceViolation(
            f"request {used.head} came back without status: {len(used.data)} bytes of {used.room}",
            "2.7.8.2",
        )
    status = used.data[-1]
    if status not in _STATUSES:
        raise DeviceViolation(f"request {used.head} came back with status {status:#x}", "5.2.6")
    return BlockAnswer(used.head, status, used.data[:-1])
