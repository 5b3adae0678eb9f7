"""From the host to the driver: read into the guest's own pages, as soon as there is a buffer."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

#: Buffers of one call.
BUDGET = 64

#: Bytes that are read at once at most, whatever the size of a buffer.
_PIECE = 65536


class PortReceiver:
    """One receive queue, from activation to reset.

    Nothing is read before there is a buffer to put it in: what the guest does not take yet stays
    with whoever writes it.

    Args:
        queue: where the driver's buffers are.
        memory: guest memory that holds them.
        source: the descriptor that bytes come from.

    Attributes:
        at_end: the source has ended, or failed; it is waited for no more until this is cleared.
    """

    __slots__ = ("_held", "_memory", "_poll", "_queue", "_source", "_starved", "at_end")

    def __init__(self, queue: Queue, memory: GuestMemory, source: int) -> None:
        self._queue = queue
        self._memory = memory
        self._source = source
        self._starved = False
        self._held: tuple[DescriptorChain, list[tuple[int, int]]] | None = None
        self._poll = select.poll()
        self._poll.register(source, select.POLLIN)
        self.at_end = False

    @property
    def waits_for(self) -> int | None:
        """The source, unless it has ended or the driver has no buffer."""
        return None if self._starved or self.at_end else self._source

    def process(self) -> bool:
        """Read what is there; True if more may be, False if a kick or `waits_for` tells.

        Raises:
            QueueError: the driver broke its queue.
        """
        self._starved = False
        self._queue.disable_notification()
        for _ in range(BUDGET):
            if self.at_end or not self._poll.poll(0):
                return False
            if self._held is None and not self._take():
                return False
            if self._held is not None and not self._fill(*self._held):
                return False
        return True

    def put_back(self) -> None:
        """Make the buffer available again that was taken, if nothing came for it after all."""
        held, self._held = self._held, None
        if held is not None:
            self._queue.put_back(held[0])

    def _take(self) -> bool:
        """Take a buffer; False if there is none and a kick will tell of one."""
        chain = self._queue.pop()
        if chain is None:
            self._starved = not self._queue.enable_notification()
            return not self._starved
        size = min(chain.writer.size, _PIECE)
        if size:
            self._held = chain, chain.writer.spans(size)
        else:
            self._queue.add_used(chain, 0)
        return True

    def _fill(self, chain: DescriptorChain, spans: list[tuple[int, int]]) -> bool:
        """Read into a buffer; False if nothing was there after all."""
        try:
            size = self._memory.readv(self._source, spans)
        except BlockingIOError:
            return False
        except OSError:
            size = 0  # a terminal whose other side hung up, for one
        if not size:
            self.at_end = True
            return False
        self._held = None
        self._queue.add_used(chain, size)
        return True
