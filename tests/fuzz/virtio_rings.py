"""Raw bytes in both formats of rings: what the queues in C make of them, and what the rules make.

The rules are the ones in Python by which the package's tests judge; their branches guide the
fuzzer, since C built by the ordinary compiler cannot. Whatever comes up goes on to the rest of
the queue's interface, where nothing but a QueueError may be raised.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from virtio_devices import PackedQueue, QueueError, SplitQueue
from virtio_devices.testing import PackedDriver, SplitDriver
from vm_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.append(str(Path(__file__).resolve().parents[2] / "packages/virtio_devices/tests"))
judge = importlib.import_module("test_virtio_devices_oracle")
memory = GuestMemory.from_ranges(judge.MEMORY)
FORMATS = (
    (SplitQueue, SplitDriver, judge.split_chains),
    (PackedQueue, PackedDriver, judge.packed_chains),
)


def one_input(data: bytes) -> None:
    """The first two bytes choose; the rest is the ring with its events, then a table."""
    choice, index = data[:2].ljust(2, b"\0")
    queue_type, driver_type, chains = FORMATS[choice & 1]
    indirect, event_idx = bool(choice & 2), bool(choice & 4)
    layout = driver_type(memory, judge.BASE, judge.SIZE).layout
    size = layout.end - judge.BASE
    memory.write(judge.BASE, data[2 : 2 + size])
    memory.write(judge.TABLE, data[2 + size :][:64].ljust(64, b"\0"))
    if queue_type is SplitQueue:
        memory.store(layout.avail_idx, index % (judge.SIZE + 2), 2)
    expected = judge.outcomes(chains(memory, layout, indirect=indirect))
    queue = queue_type(memory, layout, indirect=indirect, event_idx=event_idx)
    found = judge.queue_outcomes(queue)
    assert found == expected, (found, expected)
    go_on(queue_type(memory, layout, indirect=indirect, event_idx=event_idx))


def go_on(queue: SplitQueue | PackedQueue) -> None:
    """Everything else that a device does."""
    for _ in range(3):
        with contextlib.suppress(QueueError):
            batch = queue.pop_batch(judge.SIZE)
            for chain in batch[1::2]:
                chain.reader.read(min(chain.reader.size, 64))
                chain.writer.write(bytes(min(chain.writer.size, 64)))
            if batch:
                queue.put_back(batch.pop())
            queue.add_used_batch([(chain, chain.writer.written) for chain in batch])
            queue.needs_notification()
            queue.disable_notification()
            queue.discard(judge.SIZE)
            queue.enable_notification()
    with contextlib.suppress(QueueError):
        assert queue.in_flight == set()
        type(queue).restore(memory, queue.state()).pop()


def seeds() -> Iterator[bytes]:
    """Rings as a driver that keeps the rules fills them, directly and through tables."""
    for choice in range(8):
        _queue, driver_type, _chains = FORMATS[choice & 1]
        driver = driver_type(memory, judge.BASE, judge.SIZE)
        for text in (b"ask", b"again"):
            driver.add([text], [8], indirect=bool(choice & 2))
        yield bytes((choice, 2)) + memory.read(judge.BASE, driver.layout.end - judge.BASE)
