"""Working off a queue of block requests, up to a bound.

Plain transfers of a backend that has a descriptor are carried out in C, in batches; every other
request, and every request of other backends and queues, is the executor's, one at a time.
"""

from __future__ import annotations

from virtio_devices._core import Ring
from virtio_devices.block.backend import is_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.block.backend import Backend, FileBackend
    from virtio_devices.block.executor import Executor
    from virtio_devices.queue.interface import Queue

#: After how much work, as bytes of data, one call lets others have a turn.
MAX_WORK = 64 << 20


def serve_requests(queue: Queue, executor: Executor, backend: Backend) -> bool:
    """As `virtio_devices.serve`, and with an end to the work, which the chains do not bound."""
    queue.disable_notification()
    if isinstance(queue, Ring) and is_file(backend) and backend.transfer_fd >= 0:
        return _serve_in_batches(queue, executor, backend)
    return _serve_one_by_one(queue, executor)


def _serve_in_batches(queue: Ring, executor: Executor, file: FileBackend) -> bool:
    left, stop_at = queue.size, executor.work + MAX_WORK
    run = executor.transfers.run
    while left > 0 and executor.work < stop_at:
        fd = file.transfer_fd  # each time: after a close its number may be another file's
        if fd < 0:
            break  # the next call asks the methods
        count, moved, chain = run(queue, fd, left, stop_at - executor.work)
        executor.work += moved
        if chain is not None:
            queue.add_used(chain, executor.execute(chain))
            count += 1
        elif not count and not queue.enable_notification():
            return False
        left -= max(count, 1)
    return True


def _serve_one_by_one(queue: Queue, executor: Executor) -> bool:
    stop_at = executor.work + MAX_WORK
    for _ in range(queue.size):
        chain = queue.pop()
        if chain is not None:
            queue.add_used(chain, executor.execute(chain))
            if executor.work >= stop_at:
                break
        elif not queue.enable_notification():
            return False
    return True
