"""A block request out of a descriptor chain (virtio 1.2 §5.2.6), read as bytes.

A request is 16 readable bytes, then data, readable or writable, then one writable byte for the
status. Where the driver divides that into buffers means nothing. Everything is copied once, here;
the data alone stay in the guest and are named by their place.
"""

from __future__ import annotations

import struct

from virtio_devices.block.config import SECTOR_SIZE
from virtio_devices.errors import RequestTooShort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.queue.chain import DescriptorChain

    Spans = list[tuple[int, int]]

# Request types and status values (§5.2.6).
T_IN = 0
T_OUT = 1
T_FLUSH = 4
T_GET_ID = 8
T_DISCARD = 11
T_WRITE_ZEROES = 13

S_OK = 0
S_IOERR = 1
S_UNSUPP = 2

_header = struct.Struct("<IIQ")  # type, reserved, sector
_range = struct.Struct("<QII")  # sector, num_sectors, flags
_STATUS_SIZE = 1
_STATUSES = tuple(bytes((status,)) for status in (S_OK, S_IOERR, S_UNSUPP))
_UNMAP = 1


class RequestError(Exception):
    """A request that cannot be carried out; its driver hears of it by the status.

    Attributes:
        status: VIRTIO_BLK_S_IOERR or VIRTIO_BLK_S_UNSUPP.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Range:
    """Sectors to discard or to fill with zeros, as bytes of the disk."""

    __slots__ = ("offset", "size", "unmap")

    def __init__(self, offset: int, size: int, *, unmap: bool) -> None:
        self.offset = offset
        self.size = size
        self.unmap = unmap


class Request:
    """The header of a request, and the chain behind it.

    Attributes:
        kind: the request's type, any number.
        offset: the first byte of the disk that it is about; any multiple of 512.

    Raises:
        RequestError: no whole header.
    """

    __slots__ = ("_chain", "kind", "offset")

    def __init__(self, chain: DescriptorChain) -> None:
        if chain.reader.remaining < _header.size:
            raise RequestError(S_IOERR)
        self.kind, _reserved, sector = _header.unpack(chain.reader.read(_header.size))
        self.offset = sector * SECTOR_SIZE
        self._chain = chain

    @property
    def size_in(self) -> int:
        """Bytes that the device may read from the disk: all writable ones but the last."""
        return self._chain.writer.remaining - _STATUS_SIZE

    @property
    def size_out(self) -> int:
        """Bytes to write to the disk: all readable ones behind the header."""
        return self._chain.reader.remaining

    def data_in(self) -> Spans:
        """Where the device puts the `size_in` bytes that it reads."""
        return self._chain.writer.spans(self.size_in)

    def data_out(self) -> Spans:
        """Where the `size_out` bytes to write are."""
        return self._chain.reader.spans(self.size_out)

    def answer(self, data: bytes) -> None:
        """Write as much of `data` as the driver left room for, before the status."""
        self._chain.writer.write(data[: self.size_in])

    def ranges(self, most: int, most_sectors: int, *, may_unmap: bool) -> list[Range]:
        """The ranges of a discard or of a write of zeros.

        Args:
            most: how many there may be.
            most_sectors: how long each may be.
            may_unmap: whether the flag `unmap` exists for this type.

        Raises:
            RequestError: flags that the device must refuse are UNSUPP (§5.2.6.2), all else that
                is wrong is IOERR.
        """
        reader = self._chain.reader
        count, rest = divmod(reader.remaining, _range.size)
        if rest or not 0 < count <= most:
            raise RequestError(S_IOERR)
        ranges = []
        for sector, sectors, flags in _range.iter_unpack(reader.read(count * _range.size)):
            if flags & ~(_UNMAP if may_unmap else 0):
                raise RequestError(S_UNSUPP)
            if sectors > most_sectors:
                raise RequestError(S_IOERR)
            offset, size = sector * SECTOR_SIZE, sectors * SECTOR_SIZE
            ranges.append(Range(offset, size, unmap=bool(flags & _UNMAP)))
        return ranges


def require_status(chain: DescriptorChain) -> None:
    """Check that the driver left room to be told how its request went.

    Raises:
        RequestTooShort: it did not.
    """
    if chain.writer.size < _STATUS_SIZE:
        raise RequestTooShort(_STATUS_SIZE, chain.writer.size)


def finish(chain: DescriptorChain, status: int) -> int:
    """Put the status into the last writable byte.

    Returns:
        The bytes written, for `Queue.add_used`: all of them. A driver must not look behind that
        many (§2.7.8.2), and the status is the last; of data that a failed request did not read
        the driver finds what it had there itself.
    """
    writer = chain.writer
    if writer.remaining > _STATUS_SIZE:
        writer.spans(writer.remaining - _STATUS_SIZE)
    writer.write(_STATUSES[status])
    return writer.written
