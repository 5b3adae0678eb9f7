"""The block device's life: features, configuration space, queues (virtio 1.2 §5.2)."""

from __future__ import annotations

from types import MappingProxyType

from virtio_devices.block.backend import is_file
from virtio_devices.block.config import (
    MAX_SERIAL,
    WRITEBACK_OFFSET,
    BlockFeature,
    config_space,
    max_request_bytes,
    offered_features,
)
from virtio_devices.block.executor import Executor
from virtio_devices.block.serving import TransferFile, serve_requests
from virtio_devices.block.state import BlockState
from virtio_devices.errors import DeviceFailed, InvalidState, VirtioUsageError
from virtio_devices.features import DeviceId
from virtio_devices.records import check_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtio_devices.block.backend import Backend
    from virtio_devices.interrupt import DeviceInterrupt
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

MAX_QUEUES = 64

_FLUSH = int(BlockFeature.FLUSH)
_CONFIG_WCE = int(BlockFeature.CONFIG_WCE)


class Block:
    """A disk.

    Requests are carried out by the thread that calls `process_queue`, one after another; that
    thread waits for the host's disk. A transport lets one thread at a time into a device, so
    several queues are for the driver's convenience and make nothing parallel; a driver's write to
    the configuration space waits, too. Reads and writes of a backend that names its file
    (`FileBackend`) are given back in batches, and past the host's page cache a batch is carried out
    at once.

    Args:
        backend: where the bytes are; stays the caller's.
        serial: what the driver learns as the disk's serial number, up to 20 bytes.
        queues: request queues, one for each processor whose driver shall have its own.
        queue_size: entries of each, a power of 2.
        report: told what the host failed at, each time; the guest hears only of "an error".

    Raises:
        VirtioUsageError: the serial is too long, or there cannot be so many queues.
    """

    device_id = DeviceId.BLOCK
    readiness: Mapping[int, int] = MappingProxyType({})

    def __init__(
        self,
        backend: Backend,
        *,
        serial: bytes = b"",
        queues: int = 1,
        queue_size: int = 256,
        report: Callable[[OSError], object] = lambda _error: None,
    ) -> None:
        if len(serial) > MAX_SERIAL:
            raise VirtioUsageError(f"the serial {serial!r} is longer than {MAX_SERIAL} bytes")
        if not 1 <= queues <= MAX_QUEUES:
            raise VirtioUsageError(f"a disk has 1 to {MAX_QUEUES} queues, not {queues}")
        self.features = offered_features(backend, queues)
        self.queue_sizes = (queue_size,) * queues
        self._backend = backend
        self._serial = serial.ljust(MAX_SERIAL, b"\0")
        self._limit = max_request_bytes(queue_size)
        self._report = report
        self._accepted = 0
        self._writeback = True
        self._config = self._make_config()
        self._queues: dict[int, Queue] = {}
        self._interrupt: DeviceInterrupt | None = None
        self._executor: Executor | None = None
        self._file: TransferFile | None = None

    @property
    def config(self) -> bytes:
        """The configuration space."""
        return self._config

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the cache mode, 0 for write-through, if the driver negotiated that it may."""
        if self._accepted & _CONFIG_WCE and offset == WRITEBACK_OFFSET and len(data) == 1:
            self._set_writeback(data != b"\0")

    def accept_features(self, features: int) -> bool:
        """Any subset will do. A driver that cannot flush gets stable writes (§5.2.5.2)."""
        self._accepted = features
        self._set_writeback(bool(features & _FLUSH))
        return True

    def activate(
        self, memory: GuestMemory, queues: Mapping[int, Queue], interrupt: DeviceInterrupt
    ) -> None:
        """Start to serve requests.

        Raises:
            DeviceFailed: the host has no descriptor to spare.
        """
        try:
            self._file = TransferFile(self._backend) if is_file(self._backend) else None
        except OSError as error:
            raise DeviceFailed(f"the file of a disk cannot be used: {error}") from error
        executor = Executor(self._backend, memory, self._serial, self._limit, self._report)
        executor.features = self._accepted
        executor.writeback = self._writeback
        self._executor = executor
        self._queues = dict(queues)
        self._interrupt = interrupt

    def process_queue(self, index: int) -> bool:
        """Carry out what is in a queue, up to its size and some 64 MiB; True if more is left."""
        queue = self._queues.get(index)
        if queue is None or self._executor is None or self._interrupt is None:
            return False
        try:
            return serve_requests(queue, self._executor, self._file)
        finally:
            if queue.needs_notification():
                self._interrupt.used_buffer(index)

    def reset(self) -> None:
        """Forget the queues."""
        self._queues = {}
        self._interrupt = None
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._executor is not None:
            self._executor.transfers.close()
            self._executor = None
        self._accepted = 0
        self._set_writeback(True)

    def reset_queue(self, index: int) -> None:
        """Forget one queue; no request of it is under way between two calls."""
        self._queues.pop(index, None)

    def restart_queue(self, index: int, queue: Queue) -> None:
        """Carry out the requests of a new queue in the place of one that was reset."""
        self._queues[index] = queue

    def save(self) -> BlockState:
        """The cache mode; no request is under way between two calls."""
        return BlockState(self._writeback)

    def restore(self, state: object) -> None:
        """Go on in the cache mode of the record.

        Raises:
            InvalidState: it is none of a disk, or the driver cannot have chosen it.
        """
        if not isinstance(state, BlockState):
            raise InvalidState("is none of a disk")
        check_record(state, BlockState)
        if state.writeback != self._writeback and not self._accepted & _CONFIG_WCE:
            raise InvalidState("has a cache mode that its driver cannot choose")
        self._set_writeback(state.writeback)

    def _set_writeback(self, writeback: bool) -> None:
        self._writeback = writeback
        self._config = self._make_config()
        if self._executor is not None:
            self._executor.writeback = writeback

    def _make_config(self) -> bytes:
        queues = len(self.queue_sizes)
        return config_space(self._backend, queues, self.queue_sizes[0], writeback=self._writeback)
