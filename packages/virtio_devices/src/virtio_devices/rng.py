"""The entropy device (virtio 1.2 §5.4): gives the guest random bytes of the host."""

from __future__ import annotations

import os
from types import MappingProxyType

from virtio_devices.features import DeviceId
from virtio_devices.queue.serve import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtio_devices.interrupt import DeviceInterrupt
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

#: Most bytes that one request gets. The guest chooses a request's size, up to 4 GiB; what the
#: host holds for it at a time must not follow. A driver asks again (§5.4.6.1).
MAX_REQUEST = 64 * 1024

_REQUEST_QUEUE = 0
_QUEUE_SIZE = 64  # with MAX_REQUEST: at most 4 MiB of random bytes per call of process_queue


class Rng:
    """An entropy device with one request queue.

    Args:
        source: returns exactly as many random bytes as it is asked for.
    """

    device_id = DeviceId.RNG
    features = 0
    queue_sizes = (_QUEUE_SIZE,)
    config = b""
    readiness: Mapping[int, int] = MappingProxyType({})

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._queue: Queue | None = None
        self._interrupt: DeviceInterrupt | None = None

    def write_config(self, offset: int, data: bytes) -> None:
        """There is no configuration space."""

    def accept_features(self, features: int) -> bool:  # noqa: ARG002 - none is this device's
        """Any subset will do."""
        return True

    def activate(
        self,
        memory: GuestMemory,  # noqa: ARG002 - everything goes through the chains
        queues: Mapping[int, Queue],
        interrupt: DeviceInterrupt,
    ) -> None:
        """Start to answer requests."""
        self._queue = queues.get(_REQUEST_QUEUE)
        self._interrupt = interrupt

    def process_queue(self, index: int) -> bool:
        """Answer what is in the request queue; True if more is left."""
        if self._queue is None or self._interrupt is None or index != _REQUEST_QUEUE:
            return False
        more = serve(self._queue, self._fill)
        if self._queue.needs_notification():
            self._interrupt.used_buffer(index)
        return more

    def reset(self) -> None:
        """Forget the queue."""
        self._queue = None
        self._interrupt = None

    def reset_queue(self, index: int) -> None:
        """Forget the queue if it is the one; requests are never in the middle of anything."""
        if index == _REQUEST_QUEUE:
            self._queue = None

    def restart_queue(self, index: int, queue: Queue) -> None:
        """Answer the requests of another queue."""
        if index == _REQUEST_QUEUE:
            self._queue = queue

    def _fill(self, chain: DescriptorChain) -> int:
        """Answer one request; one without writable bytes is against §5.4.6.1 and gets none."""
        chain.writer.write(self._source(min(chain.writer.size, MAX_REQUEST)))
        return chain.writer.written
