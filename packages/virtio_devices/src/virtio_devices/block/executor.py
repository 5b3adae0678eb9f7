"""Carrying out one block request on a backend (virtio 1.2 §5.2.6.2).

Whatever goes wrong is a status; the one thing that a driver cannot be told that way is that it
left no room for one.
"""

from __future__ import annotations

from virtio_devices._core import Transfers
from virtio_devices.block.config import (
    MAX_DISCARD_RANGES,
    MAX_DISCARD_SECTORS,
    MAX_ZEROES_RANGES,
    MAX_ZEROES_SECTORS,
    SECTOR_SIZE,
    BlockFeature,
)
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
    Range,
    Request,
    RequestError,
    finish,
    require_status,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices.block.backend import Backend
    from virtio_devices.queue.chain import DescriptorChain
    from vm_memory import GuestMemory

#: What a flush counts as: a disk that takes milliseconds for it moves megabytes in that time.
FLUSH_WORK = 4 << 20
#: What a range that is discarded counts as, whatever its size: what the file system notes of it.
RANGE_WORK = 1 << 20

_DISCARD = int(BlockFeature.DISCARD)
_WRITE_ZEROES = int(BlockFeature.WRITE_ZEROES)


class Executor:
    """Requests of one activation of a block device.

    Args:
        backend: the disk.
        memory: the guest's memory.
        serial: the answer to GET_ID, 20 bytes.
        limit: the most data of one request, in bytes.
        report: told what the host failed at.

    Attributes:
        features: what was negotiated.
        transfers: what carries out plain reads and writes of such a disk in C.
        work: what requests have cost so far, as bytes to move; whoever bounds work reads it.
    """

    def __init__(
        self,
        backend: Backend,
        memory: GuestMemory,
        serial: bytes,
        limit: int,
        report: Callable[[OSError], object],
    ) -> None:
        self._backend = backend
        self._memory = memory
        self._serial = serial
        self._limit = limit
        self._report = report
        self._size = backend.sizes.size
        self.transfers = Transfers(self._size, limit)
        self.features = 0
        self.writeback = False
        self.work = 0
        self._handlers: dict[int, Callable[[Request], None]] = {
            T_IN: self._read,
            T_OUT: self._write,
            T_FLUSH: self._flush,
            T_GET_ID: self._get_id,
            T_DISCARD: self._discard,
            T_WRITE_ZEROES: self._write_zeroes,
        }

    @property
    def writeback(self) -> bool:
        """Whether a write may be told before it is stable."""
        return self._writeback

    @writeback.setter
    def writeback(self, writeback: bool) -> None:
        self._writeback = writeback
        self.transfers.writable = writeback and not self._backend.read_only

    def execute(self, chain: DescriptorChain) -> int:
        """Do what a chain asks for; return the bytes written into it.

        Raises:
            RequestTooShort: the chain has no room for a status.
        """
        require_status(chain)
        try:
            request = Request(chain)
            self._handlers.get(request.kind, _refuse)(request)
        except RequestError as error:
            return finish(chain, error.status)
        except OSError as error:
            self._report(error)
            return finish(chain, S_IOERR)
        return finish(chain, S_OK)

    def _read(self, request: Request) -> None:
        self._claim(request.offset, request.size_in)
        self._backend.read(self._memory, request.data_in(), request.offset)

    def _write(self, request: Request) -> None:
        self._require_writable()
        self._claim(request.offset, request.size_out)
        self._backend.write(self._memory, request.data_out(), request.offset)
        self._make_stable()

    def _flush(self, _request: Request) -> None:
        if not self._backend.read_only:
            self._make_all_stable()

    def _get_id(self, request: Request) -> None:
        request.answer(self._serial)

    def _discard(self, request: Request) -> None:
        self._require_feature(_DISCARD)
        ranges = request.ranges(MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, may_unmap=False)
        self._check_ranges(ranges)
        for part in ranges:
            self.work += RANGE_WORK
            self._backend.discard(part.offset, part.size)

    def _write_zeroes(self, request: Request) -> None:
        self._require_feature(_WRITE_ZEROES)
        ranges = request.ranges(MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS, may_unmap=True)
        self._check_ranges(ranges)
        for part in ranges:
            self.work += part.size  # in the worst case the backend writes them
            self._backend.write_zeroes(part.offset, part.size, unmap=part.unmap)
        self._make_stable()

    def _make_stable(self) -> None:
        """After a write: in write-through mode it is told when it is stable (§5.2.6.2)."""
        if not self._writeback:
            self._make_all_stable()

    def _make_all_stable(self) -> None:
        self.work += FLUSH_WORK
        self._backend.flush()

    def _require_writable(self) -> None:
        if self._backend.read_only:
            raise RequestError(S_IOERR)

    def _require_feature(self, feature: int) -> None:
        self._require_writable()
        if not self.features & feature:
            raise RequestError(S_UNSUPP)

    def _check_ranges(self, ranges: list[Range]) -> None:
        """All of them before the first is touched."""
        for part in ranges:
            self._check_inside(part.offset, part.size)

    def _claim(self, offset: int, size: int) -> None:
        """Raise unless these are whole sectors of the disk, and no more than a request may have."""
        if size % SECTOR_SIZE or size > self._limit:
            raise RequestError(S_IOERR)
        self._check_inside(offset, size)
        self.work += size

    def _check_inside(self, offset: int, size: int) -> None:
        if offset + size > self._size:
            raise RequestError(S_IOERR)


def _refuse(_request: Request) -> None:
    raise RequestError(S_UNSUPP)
