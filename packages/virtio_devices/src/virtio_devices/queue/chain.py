"""One request: the buffers of a descriptor chain, as two streams of bytes.

A device reads the readable bytes in order and writes the writable ones in order. Where one
buffer ends and the next begins means nothing (virtio 1.2 §2.7.4.1), so no device sees it.

A chain was checked when it was popped: all of it is guest memory.
"""

from __future__ import annotations

from virtio_devices.errors import RequestTooShort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vm_memory import GuestMemory

    Buffer = tuple[int, int]  # guest physical address, bytes


class _Cursor:
    """A position in a sequence of buffers."""

    __slots__ = ("_buffers", "_index", "_offset", "remaining", "size")

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._index = 0
        self._offset = 0
        self.size = sum([size for _address, size in buffers])
        self.remaining = self.size

    def take(self, size: int) -> list[Buffer]:
        """The next `size` bytes as pieces, none of them empty; the position moves behind them."""
        if not 0 <= size <= self.remaining:
            raise RequestTooShort(size, self.remaining)
        self.remaining -= size
        pieces = []
        while size:
            address, length = self._buffers[self._index]
            piece = min(size, length - self._offset)
            if piece:
                pieces.append((address + self._offset, piece))
            self._offset += piece
            size -= piece
            if self._offset == length:
                self._index += 1
                self._offset = 0
        return pieces


class Reader:
    """The readable bytes of a chain, from first to last.

    What it returns is a copy: the guest may change its memory at any time, so a device checks
    and uses the same copy. `spans` is for bulk data that is passed on unchecked.
    """

    __slots__ = ("_cursor", "_memory")

    def __init__(self, memory: GuestMemory, buffers: Sequence[Buffer]) -> None:
        self._memory = memory
        self._cursor = _Cursor(buffers)

    @property
    def size(self) -> int:
        """All readable bytes of the chain."""
        return self._cursor.size

    @property
    def remaining(self) -> int:
        """Readable bytes that were not taken yet."""
        return self._cursor.remaining

    def read(self, size: int) -> bytes:
        """Copy the next `size` bytes; a guest chooses how many there are, so bound `size`.

        Raises:
            RequestTooShort: fewer are left; nothing was taken.
        """
        pieces = self._cursor.take(size)
        return b"".join([self._memory.read(address, length) for address, length in pieces])

    def spans(self, size: int) -> list[Buffer]:
        """Where the next `size` bytes are, as (address, bytes): for `GuestMemory.writev`.

        Raises:
            RequestTooShort: fewer are left; nothing was taken.
        """
        return self._cursor.take(size)


class Writer:
    """The writable bytes of a chain, from first to last."""

    __slots__ = ("_cursor", "_memory")

    def __init__(self, memory: GuestMemory, buffers: Sequence[Buffer]) -> None:
        self._memory = memory
        self._cursor = _Cursor(buffers)

    @property
    def size(self) -> int:
        """All writable bytes of the chain."""
        return self._cursor.size

    @property
    def remaining(self) -> int:
        """Writable bytes that were not taken yet."""
        return self._cursor.remaining

    @property
    def written(self) -> int:
        """Bytes written so far, spans included: what `Queue.add_used` wants."""
        return self._cursor.size - self._cursor.remaining

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` (items of one byte) into the guest.

        Raises:
            RequestTooShort: less room is left; nothing was written.
        """
        source = memoryview(data)
        position = 0
        for address, length in self._cursor.take(len(source)):
            self._memory.write(address, source[position : position + length])
            position += length

    def spans(self, size: int) -> list[Buffer]:
        """Where the next `size` bytes are, as (address, bytes): for `GuestMemory.readv`.

        They count as written from now on; whoever fills less says so to `Queue.add_used`.

        Raises:
            RequestTooShort: less room is left; nothing was taken.
        """
        return self._cursor.take(size)


class DescriptorChain:
    """A request that the driver made available.

    Attributes:
        head: what the driver knows it by: the index of its first descriptor in a split queue,
            its buffer id in a packed one.
        reader: the bytes that the device may read.
        writer: the bytes that the device may write.
    """

    __slots__ = ("head", "reader", "writer")

    def __init__(
        self,
        memory: GuestMemory,
        head: int,
        readable: Sequence[Buffer],
        writable: Sequence[Buffer],
    ) -> None:
        self.head = head
        self.reader = Reader(memory, readable)
        self.writer = Writer(memory, writable)

    def __repr__(self) -> str:
        return (
            f"<DescriptorChain head={self.head} readable={self.reader.size:#x} "
            f"writable={self.writer.size:#x}>"
        )
