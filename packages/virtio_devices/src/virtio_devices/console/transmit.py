"""From the driver to the host: a write out of the guest's own pages, as much as the host takes."""

from __future__ import annotations

from virtio_devices.console.output import PIECE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.console.output import Output
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

#: Steps of one call, each a write or a buffer: at most 256 KiB.
BUDGET = 64


class PortTransmitter:
    """One transmit queue, from activation to reset.

    What the host does not take yet stays in the driver's buffer, which is not given back before
    all of it is gone: the guest waits, and the host holds nothing.

    Args:
        queue: where bytes come from.
        memory: guest memory that holds them.
        output: where they go.

    Attributes:
        written: bytes of the next buffer that have gone out before, when it was put back.
    """

    __slots__ = ("_chain", "_memory", "_output", "_queue", "_spans", "_waits", "written")

    def __init__(self, queue: Queue, memory: GuestMemory, output: Output) -> None:
        self._queue = queue
        self._memory = memory
        self._output = output
        self._chain: DescriptorChain | None = None
        self._spans: list[tuple[int, int]] = []  # of the chain, taken from it and not written
        self._waits = False
        self.written = 0

    @property
    def waits_for(self) -> int | None:
        """The descriptor whose readiness ends a wait, while the host takes no more."""
        return self._output.wait() if self._waits else None

    def process(self, *, is_open: bool) -> bool:
        """Write what is available; True if more is left, False if a kick or `waits_for` tells.

        Args:
            is_open: whether the host's end is; what is written to a closed one is lost.

        Raises:
            QueueError: the driver broke its queue.
        """
        self._waits = False
        self._queue.disable_notification()
        for _ in range(BUDGET):
            if self._chain is None:
                if not self._take() and not self._queue.enable_notification():
                    return False
            elif not self._spans and not self._chain.reader.remaining:
                self._queue.add_used(self._chain, 0)
                self._chain = None
            elif not is_open:
                self._discard(self._chain)
            elif not self._write(self._chain):
                return False
        return True

    def put_back(self) -> None:
        """Make the buffer available again of which only a part was written."""
        chain, self._chain = self._chain, None
        if chain is not None:
            rest = sum([size for _address, size in self._spans]) + chain.reader.remaining
            self.written = chain.reader.size - rest
            self._spans = []
            self._queue.put_back(chain)

    def close(self) -> None:
        """Forget the buffer that waits, and the wait."""
        self._chain = None
        self._spans = []
        self.written = 0
        self._waits = False

    def _take(self) -> bool:
        """Take a buffer, without what has gone out of it; False if there is none."""
        chain = self._chain = self._queue.pop()
        if chain is None:
            return False
        chain.reader.spans(min(self.written, chain.reader.size))
        self.written = 0
        return True

    def _discard(self, chain: DescriptorChain) -> None:
        self._output.lost += sum([size for _address, size in self._spans]) + chain.reader.remaining
        self._spans = []
        chain.reader.spans(chain.reader.remaining)

    def _write(self, chain: DescriptorChain) -> bool:
        """Write one piece; False if the host takes nothing now."""
        if not self._spans:
            self._spans = chain.reader.spans(min(chain.reader.remaining, PIECE))
        done = self._output.write(self._memory, self._spans)
        if not done:
            self._waits = True
            return False
        self._spans = _behind(self._spans, done)
        return True


def _behind(spans: list[tuple[int, int]], done: int) -> list[tuple[int, int]]:
    """What is left of pieces of memory behind their first `done` bytes."""
    left = []
    for address, size in spans:
        skipped = min(done, size)
        done -= skipped
        if skipped < size:
            left.append((address + skipped, size - skipped))
    return left
