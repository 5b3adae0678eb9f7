"""From the backend to the driver: one read per frame, then as many buffers as it needs.

A frame is read into a buffer of the host, not straight into the guest. Its size is unknown before,
a read into less than it needs would cut it, and buffers for the largest frame are 43 of Linux's:
a readv into those costs 2.7 µs, where a read and a copy of a short frame cost 1.3 µs (and the
device has to write num_buffers into the header in any case). So buffers are taken from the queue
when the frame is there, and only as many as it fills.

The frames themselves are moved in C, in batches (`_core.Arrivals`); here is when, and what becomes
of the queue.
"""

from __future__ import annotations

import select

from virtio_devices._core import Arrivals
from virtio_devices.errors import DeviceFailed, os_reason
from virtio_devices.net.frame import (
    ETHERNET_HEADER_SIZE,
    HEADER_SIZE,
    LARGEST,
    VLAN_TAG_SIZE,
)
from virtio_devices.queue.serve import MAX_WALK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.descriptor import OwnDescriptor, Readiness
    from virtio_devices.net.counters import NetCounters
    from virtio_devices.queue.interface import Queue

#: Frames of one call, so that other devices of the same loop have their turn.
BUDGET = 64


class Receiver:
    """One receive queue, from activation to reset.

    Args:
        queue: where the driver's buffers are.
        source: where frames come from.
        readiness: what stands for it until `close`.
        counters: what is counted.
        mergeable: whether MRG_RXBUF was negotiated: a frame may fill several buffers.
        mtu: the negotiated MTU, 0 if there is none.
    """

    __slots__ = ("_arrivals", "_counters", "_queue", "_readiness", "_source")

    def __init__(
        self,
        queue: Queue,
        source: OwnDescriptor,
        readiness: Readiness,
        counters: NetCounters,
        *,
        mergeable: bool,
        mtu: int,
    ) -> None:
        largest_plain = HEADER_SIZE + ETHERNET_HEADER_SIZE + VLAN_TAG_SIZE + mtu if mtu else LARGEST
        self._queue = queue
        self._source = source
        self._readiness = readiness
        self._counters = counters
        self._arrivals = Arrivals(queue, mergeable, largest_plain)
        readiness.follow(source.fileno(), select.EPOLLIN)

    @property
    def waits_for(self) -> int | None:
        """The descriptor that brings frames, unless one is there and the driver has no room."""
        return None if self._arrivals.waiting else self._readiness.fileno()

    def process(self, *, link_up: bool) -> bool:
        """Receive what is there; True if more may be, False if a kick or `waits_for` tells.

        Raises:
            QueueError: the driver broke its queue.
            DeviceFailed: the backend is gone.
        """
        self._queue.disable_notification()
        arrivals = self._arrivals
        more, left, last = True, BUDGET, self._queue.walked + MAX_WALK
        while left > 0 and self._queue.walked < last:
            if not arrivals.waiting:
                more = more and self._read(left)
                if not arrivals.waiting:
                    return False
            before = arrivals.waiting
            self._deliver(link_up=link_up)
            if arrivals.waiting and not self._queue.enable_notification():
                return False
            left -= max(before - arrivals.waiting, 1)
        return more or arrivals.waiting > 0

    def put_back(self) -> None:
        """Make buffers available again that were taken for a frame that waits for more of them."""
        self._arrivals.put_back()

    def close(self) -> None:
        """Wait for nothing."""
        self._readiness.forget()

    def _read(self, limit: int) -> bool:
        """The next frames; False if there are no others behind them."""
        try:
            return self._arrivals.read(self._source.fileno(), limit)
        except OSError as error:
            raise DeviceFailed(
                f"the backend of a receive queue is gone: {os_reason(error)}"
            ) from error
        except EOFError as error:
            raise DeviceFailed("the backend of a receive queue has closed its end") from error

    def _deliver(self, *, link_up: bool) -> None:
        """Pass the frames on that wait, and count what became of them."""
        frames, size, malformed, too_large, link_down, bad_buffers = self._arrivals.deliver(link_up)
        counters = self._counters
        counters.rx_frames += frames
        counters.rx_bytes += size
        counters.rx_malformed += malformed
        counters.rx_too_large += too_large
        counters.rx_link_down += link_down
        counters.rx_bad_buffers += bad_buffers
