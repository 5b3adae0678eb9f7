"""From the driver to the backend: one writev per frame, out of the guest's own pages."""

from __future__ import annotations

import errno

from virtio_devices.errors import DeviceFailed
from virtio_devices.net.frame import HEADER_SIZE, LARGEST, SMALLEST
from virtio_devices.writability import Writability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.net.counters import NetCounters
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

#: Frames of one call, so that other devices of the same loop have their turn.
BUDGET = 64

#: The interface is gone, or the descriptor is: no later frame can do better.
_GONE = frozenset({errno.EBADF, errno.EBADFD, errno.ENODEV})


class Transmitter:
    """One transmit queue, from activation to reset.

    Args:
        queue: where frames come from.
        memory: guest memory that holds them.
        fd: where they go.
        counters: what is counted.
    """

    __slots__ = ("_counters", "_fd", "_memory", "_queue", "_waiting", "_writability")

    def __init__(self, queue: Queue, memory: GuestMemory, fd: int, counters: NetCounters) -> None:
        self._queue = queue
        self._memory = memory
        self._fd = fd
        self._counters = counters
        self._waiting: tuple[DescriptorChain, list[tuple[int, int]], int] | None = None
        self._writability: Writability | None = None

    @property
    def waits_for(self) -> int | None:
        """The descriptor whose readiness ends a wait, while the backend takes no more frames."""
        if self._waiting is None or self._writability is None:
            return None
        return self._writability.fileno()

    def process(self, *, link_up: bool) -> bool:
        """Send what is available; True if more is left, False if a kick or `waits_for` tells.

        Raises:
            QueueError: the driver broke its queue.
            DeviceFailed: the backend is gone.
        """
        self._queue.disable_notification()
        if self._waiting is not None and not self._write(*self._waiting):
            return False
        for _ in range(BUDGET):
            chain = self._queue.pop()
            if chain is None:
                if not self._queue.enable_notification():
                    return False
            elif not self._send(chain, link_up=link_up):
                return False
        return True

    def close(self) -> None:
        """Forget the frame that waits, and the wait."""
        self._waiting = None
        if self._writability is not None:
            self._writability.close()
            self._writability = None

    def _send(self, chain: DescriptorChain, *, link_up: bool) -> bool:
        """Send one frame or drop it; False if it has to wait."""
        reader = chain.reader
        size = reader.size
        if link_up and SMALLEST <= size <= LARGEST:
            return self._write(chain, reader.spans(size), size)
        if SMALLEST <= size <= LARGEST:
            self._counters.tx_link_down += 1
        else:
            self._counters.tx_malformed += 1
        self._queue.add_used(chain, 0)
        return True

    def _write(self, chain: DescriptorChain, spans: list[tuple[int, int]], size: int) -> bool:
        counters = self._counters
        try:
            self._memory.writev(self._fd, spans)
        except BlockingIOError:
            self._wait(chain, spans, size)
            return False
        except OSError as error:
            if error.errno in _GONE:
                raise DeviceFailed(f"the backend of a transmit queue is gone: {error}") from error
            counters.tx_refused += 1
        else:
            counters.tx_frames += 1
            counters.tx_bytes += size - HEADER_SIZE
        self._waiting = None
        self._queue.add_used(chain, 0)
        return True

    def _wait(self, chain: DescriptorChain, spans: list[tuple[int, int]], size: int) -> None:
        self._waiting = (chain, spans, size)
        if self._writability is None:
            self._writability = Writability(self._fd)
