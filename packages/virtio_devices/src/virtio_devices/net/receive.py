"""From the backend to the driver: one read per frame, then as many buffers as it needs.

A frame is read into a buffer of the host, not straight into the guest. Its size is unknown before,
a read into less than it needs would cut it, and buffers for the largest frame are 43 of Linux's:
a readv into those costs 2.7 µs, where a read and a copy of a short frame cost 1.3 µs (and the
device has to write num_buffers into the header in any case). So buffers are taken from the queue
when the frame is there, and only as many as it fills.
"""

from __future__ import annotations

import os

from virtio_devices.errors import DeviceFailed
from virtio_devices.net.frame import (
    ETHERNET_HEADER_SIZE,
    GSO_TYPE_OFFSET,
    HEADER_SIZE,
    LARGEST,
    NUM_BUFFERS,
    SMALLEST,
    VLAN_TAG_SIZE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.net.counters import NetCounters
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue

#: Frames of one call, so that other devices of the same loop have their turn.
BUDGET = 64

_ONE = (1).to_bytes(2, "little")


class Receiver:
    """One receive queue, from activation to reset.

    Args:
        queue: where the driver's buffers are.
        fd: where frames come from.
        counters: what is counted.
        mergeable: whether MRG_RXBUF was negotiated: a frame may fill several buffers.
        mtu: the negotiated MTU, 0 if there is none.
    """

    __slots__ = (
        "_buffer",
        "_buffers",
        "_counters",
        "_fd",
        "_held",
        "_largest_plain",
        "_mergeable",
        "_queue",
        "_room",
        "_size",
        "_view",
    )

    def __init__(
        self, queue: Queue, fd: int, counters: NetCounters, *, mergeable: bool, mtu: int
    ) -> None:
        self._queue = queue
        self._fd = fd
        self._counters = counters
        self._mergeable = mergeable
        self._largest_plain = (
            HEADER_SIZE + ETHERNET_HEADER_SIZE + VLAN_TAG_SIZE + mtu if mtu else LARGEST
        )
        self._buffer = bytearray(LARGEST + 1)  # one more: a frame that fills it is too long
        self._buffers = (self._buffer,)
        self._view = memoryview(self._buffer)
        self._size = 0  # of the frame in the buffer, with its header; 0 if there is none
        self._held: list[DescriptorChain] = []  # buffers for it, taken and not filled
        self._room = 0  # bytes of `_held`

    @property
    def waits_for(self) -> int | None:
        """The descriptor that brings frames, unless one is there and the driver has no room."""
        return None if self._size else self._fd

    def process(self, *, link_up: bool) -> bool:
        """Receive what is there; True if more may be, False if a kick or `waits_for` tells.

        Raises:
            QueueError: the driver broke its queue.
            DeviceFailed: the backend is gone.
        """
        self._queue.disable_notification()
        for _ in range(BUDGET):
            if not self._size and not self._read():
                return False
            is_plain = link_up and SMALLEST <= self._size <= self._largest_plain
            if not is_plain and not self._is_acceptable(link_up=link_up):
                self._size = 0
            elif self._held or not self._deliver_into_one():
                if not self._gather():
                    return False
                self._deliver()
        return True

    def _read(self) -> bool:
        """The next frame into the buffer; False if there is none."""
        try:
            self._size = os.readv(self._fd, self._buffers)
        except BlockingIOError:
            return False
        except OSError as error:
            raise DeviceFailed(f"the backend of a receive queue is gone: {error}") from error
        if not self._size:
            raise DeviceFailed("the backend of a receive queue has closed its end")
        return True

    def _is_acceptable(self, *, link_up: bool) -> bool:
        """Whether the frame is passed on, though it is not a plain one."""
        size = self._size
        if not SMALLEST <= size <= LARGEST:
            self._counters.rx_malformed += 1
        elif size > self._largest_plain and not self._buffer[GSO_TYPE_OFFSET]:
            self._counters.rx_malformed += 1  # §5.1.4.1: no larger than the MTU, unless segmented
        elif not link_up:
            self._counters.rx_link_down += 1
        else:
            return True
        return False

    def _deliver_into_one(self) -> bool:
        """The usual case, shortened: the next buffer holds all of the frame.

        If not, the buffer is held and counts for `_gather`.
        """
        chain = self._queue.pop()
        if chain is None:
            return False
        size, writer = self._size, chain.writer
        if writer.size < size:
            self._hold(chain)
            return False
        self._buffer[NUM_BUFFERS] = _ONE
        writer.write(self._view[:size])
        self._queue.add_used(chain, size)
        self._size = 0
        counters = self._counters
        counters.rx_frames += 1
        counters.rx_bytes += size - HEADER_SIZE
        return True

    def _hold(self, chain: DescriptorChain) -> None:
        """Keep a buffer for the frame, unless it could not even hold a header (§5.1.6.3.1)."""
        if chain.writer.size < HEADER_SIZE:
            self._counters.rx_bad_buffers += 1
            self._queue.add_used(chain, 0)
        else:
            self._held.append(chain)
            self._room += chain.writer.size

    def _gather(self) -> bool:
        """Hold buffers for the frame; False if the driver has to add some first.

        It ends after as many steps as the queue has entries, also if all of them hold nothing.
        """
        for _ in range(self._queue.size):
            if self._room >= self._size or self._is_at_limit():
                return True
            chain = self._queue.pop()
            if chain is not None:
                self._hold(chain)
            elif not self._queue.enable_notification():
                return False
        return True

    def _is_at_limit(self) -> bool:
        """Whether no further buffer can come, or help."""
        return len(self._held) >= (self._queue.size if self._mergeable else 1)

    def _deliver(self) -> None:
        """Put the frame into the buffers, or drop it if they are too small for all of it."""
        size, self._size = self._size, 0
        if self._room < size:
            self._counters.rx_too_large += 1
            return
        filled: list[tuple[DescriptorChain, int]] = []
        left = size
        for chain in self._held:
            part = min(chain.writer.size, left)
            filled.append((chain, part))
            left -= part
            if not left:
                break
        self._buffer[NUM_BUFFERS] = len(filled).to_bytes(2, "little")
        position = 0
        for chain, part in filled:
            chain.writer.write(self._view[position : position + part])
            position += part
            self._room -= chain.writer.size
        del self._held[: len(filled)]
        self._queue.add_used_batch(filled)
        self._counters.rx_frames += 1
        self._counters.rx_bytes += size - HEADER_SIZE
