"""Working off a queue of block requests, up to a bound.

Plain transfers of a backend that has a descriptor are carried out in C, in batches; every other
request, and every request of other backends and queues, is the executor's, one at a time.
"""

from __future__ import annotations

from virtio_devices._core import Ring
from virtio_devices.descriptor import OwnDescriptor
from virtio_devices.queue.serve import MAX_WALK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.block.backend import FileBackend
    from virtio_devices.block.executor import Executor
    from virtio_devices.queue.interface import Queue

#: After how much work, as bytes of data, one call lets others have a turn.
MAX_WORK = 64 << 20


class TransferFile:
    """The file of a backend from activation to reset, while the backend says that it has one.

    Args:
        backend: names the file.

    Raises:
        OSError: there can be no duplicate of its descriptor.
    """

    __slots__ = ("_backend", "_own")

    def __init__(self, backend: FileBackend) -> None:
        fd = backend.transfer_fd
        self._backend = backend
        self._own = OwnDescriptor(fd) if fd >= 0 else None

    def fileno(self) -> int:
        """A descriptor that nobody else closes, -1 if there is no file now."""
        if self._own is None or self._backend.transfer_fd < 0:
            return -1
        return self._own.fileno()

    def close(self) -> None:
        """There is no file any more."""
        if self._own is not None:
            self._own.close()


def serve_requests(queue: Queue, executor: Executor, file: TransferFile | None) -> bool:
    """As `virtio_devices.serve`, and with an end to the work, which the chains do not bound.

    Args:
        queue: where the requests come from.
        executor: carries out what it finds there.
        file: that of the executor's backend, if it names one.
    """
    queue.disable_notification()
    if file is not None and isinstance(queue, Ring):
        more = _serve_in_batches(queue, executor, file)
        if more is not None:
            return more
    return _serve_one_by_one(queue, executor)


def _serve_in_batches(queue: Ring, executor: Executor, file: TransferFile) -> bool | None:
    """None: there is no file now."""
    left, stop_at, last = queue.size, executor.work + MAX_WORK, queue.walked + MAX_WALK
    run = executor.transfers.run
    while left > 0 and executor.work < stop_at and queue.walked < last:
        fd = file.fileno()
        if fd < 0:
            return None
        count, moved, rest = run(queue, fd, left, stop_at - executor.work)
        executor.work += moved
        for chain in rest:
            queue.add_used(chain, executor.execute(chain))
        count += len(rest)
        if not count and not queue.enable_notification():
            return False
        left -= max(count, 1)
    return True


def _serve_one_by_one(queue: Queue, executor: Executor) -> bool:
    stop_at, last = executor.work + MAX_WORK, queue.walked + MAX_WALK
    for _ in range(queue.size):
        chain = queue.pop()
        if chain is not None:
            queue.add_used(chain, executor.execute(chain))
            if executor.work >= stop_at or queue.walked >= last:
                break
        elif not queue.enable_notification():
            return False
    return True
