"""From the driver to the backend, one write per frame.

The frames themselves are moved in C, in batches (`_core.Departures`); here is when, and what
becomes of one that cannot be sent.
"""

from __future__ import annotations

import errno
import os
import select

from virtio_devices._core import Departures
from virtio_devices.errors import DeviceFailed, os_reason
from virtio_devices.net.frame import LARGEST, SMALLEST
from virtio_devices.queue.serve import MAX_WALK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.descriptor import OwnDescriptor, Readiness
    from virtio_devices.net.counters import NetCounters
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue

#: Frames of one call, so that other devices of the same loop have their turn.
BUDGET = 64

#: The interface is gone, or the descriptor is: no later frame can do better.
_GONE = frozenset({errno.EBADF, errno.EBADFD, errno.ENODEV})


class Transmitter:
    """One transmit queue, from activation to reset.

    Args:
        queue: where frames come from.
        target: where they go.
        readiness: what stands for it while it takes no more, until `close`.
        counters: what is counted.
    """

    __slots__ = ("_counters", "_departures", "_queue", "_readiness", "_target", "_waits")

    def __init__(
        self, queue: Queue, target: OwnDescriptor, readiness: Readiness, counters: NetCounters
    ) -> None:
        self._queue = queue
        self._target = target
        self._readiness = readiness
        self._counters = counters
        self._departures = Departures(queue)
        self._waits = False

    @property
    def waits_for(self) -> int | None:
        """The descriptor whose readiness ends a wait, while the backend takes no more frames."""
        return self._readiness.fileno() if self._waits else None

    def process(self, *, link_up: bool) -> bool:
        """Send what is available; True if more is left, False if a kick or `waits_for` tells.

        Raises:
            QueueError: the driver broke its queue.
            DeviceFailed: the backend is gone.
        """
        self._queue.disable_notification()
        self._waits = False
        left, last = BUDGET, self._queue.walked + MAX_WALK
        while left > 0 and self._queue.walked < last:
            done = self._send(left) if link_up else self._lose()
            if self._waits or (not done and not self._queue.enable_notification()):
                return False
            left -= max(done, 1)
        return True

    def close(self) -> None:
        """Forget the wait."""
        self._waits = False
        self._readiness.forget()

    def _send(self, limit: int) -> int:
        """Send a batch of frames; how many are done with. Perhaps the next one has to wait."""
        sent, size, error, chain = self._departures.send(self._target.fileno(), limit)
        self._counters.tx_frames += sent
        self._counters.tx_bytes += size
        if chain is not None:
            self._drop(chain, error)
            return sent + 1
        if error == errno.EAGAIN:
            self._wait()
        return sent

    def _drop(self, chain: DescriptorChain, error: int) -> None:
        """Give a chain back that is no frame, or that the backend refused."""
        if error in _GONE:
            reason = OSError(error, os.strerror(error))
            raise DeviceFailed(
                f"the backend of a transmit queue is gone: {os_reason(reason)}"
            ) from reason
        if error:
            self._counters.tx_refused += 1
        else:
            self._counters.tx_malformed += 1
        self._queue.add_used(chain, 0)

    def _lose(self) -> int:
        """Take a frame and send it nowhere: the link is down; 0 if there was none."""
        chain = self._queue.pop()
        if chain is None:
            return 0
        if SMALLEST <= chain.reader.size <= LARGEST:
            self._counters.tx_link_down += 1
        else:
            self._counters.tx_malformed += 1
        self._queue.add_used(chain, 0)
        return 1

    def _wait(self) -> None:
        self._waits = True
        self._readiness.follow(self._target.fileno(), select.EPOLLOUT)
