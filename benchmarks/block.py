"""Block requests through the whole device: kick to used ring, on a file in the page cache.

Batches of 32 requests of three descriptors, reads and writes, of 4 KiB and 64 KiB. Beside ours, in
the same run: `readv`, the same transfers as a loop over `GuestMemory.readv` and `writev` (what the
device adds is the difference), and `os.preadv`, a plain loop over memoryviews, which is the floor
of Python. Nanoseconds per request; making the requests available is not counted.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks.harness import Candidate, Goal, Results, interleave, report
from virtio_devices import Block, MmioTransport, RawImage
from virtio_devices.testing import InterruptCounter, MmioDriver, SplitDriver
from vm_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 32
BATCHES = 30
QUEUE = 128
DISK = 16 << 20
HEADERS, STATUSES, DATA, STRIDE = 0x40000, 0x50000, 0x10_0000, 0x1_0000
SIZES = {"4k": 4096, "64k": 65536}
READ, WRITE = 0, 1

Times = dict[str, float]


class Rig:
    """A disk in shared memory, its device, and a driver with prepared requests."""

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, "disk")  # noqa: PTH118
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(os.urandom(DISK))
        self.memory = GuestMemory.from_ranges([(0, 8 << 20)])
        self.image = RawImage(path)
        device = Block(self.image, queue_size=QUEUE)
        self.transport = MmioTransport(device, self.memory, InterruptCounter(), kick=_ignore)
        driver = MmioDriver(self.transport)
        driver.negotiate(1 << 9)
        self.queue = SplitDriver(self.memory, 0x1000, QUEUE, span=0x10000)
        driver.add_queue(0, self.queue)
        driver.start()
        self.views = [
            self.memory.view(DATA + index * STRIDE, STRIDE, writable=True) for index in range(BATCH)
        ]

    def offer(self, kind: int, size: int) -> None:
        """Make one batch available; descriptors and buffers are the same each time."""
        for index in range(BATCH):
            header, first = HEADERS + 16 * index, 3 * index
            self.memory.write(header, struct.pack("<IIQ", kind, 0, index * size // 512))
            data = DATA + index * STRIDE
            self.queue.write_descriptor(first, header, 16, 1, first + 1)
            flags = 1 if kind == WRITE else 3
            self.queue.write_descriptor(first + 1, data, size, flags, first + 2)
            self.queue.write_descriptor(first + 2, STATUSES + index, 1, 2)
            self.queue.offer(first)

    def device(self, kind: int, size: int) -> float:
        """Nanoseconds per request of the whole device."""
        spent = 0
        for _ in range(BATCHES):
            self.offer(kind, size)
            began = time.perf_counter_ns()
            self.transport.process_queue(0)
            spent += time.perf_counter_ns() - began
        assert self.memory.read(STATUSES, BATCH) == bytes(BATCH)
        return spent / (BATCH * BATCHES)

    def bare(self, kind: int, size: int) -> float:
        """The transfers alone, by guest memory's own call."""
        call = self.memory.writev if kind == WRITE else self.memory.readv
        fd = self.image.fileno()
        began = time.perf_counter_ns()
        for _ in range(BATCHES):
            for index in range(BATCH):
                call(fd, [(DATA + index * STRIDE, size)], index * size)
        return (time.perf_counter_ns() - began) / (BATCH * BATCHES)

    def plain(self, kind: int, size: int) -> float:
        """The transfers alone, by Python's."""
        call: Callable[..., int] = os.pwritev if kind == WRITE else os.preadv
        fd = self.image.fileno()
        views = [view[:size] for view in self.views]
        began = time.perf_counter_ns()
        for _ in range(BATCHES):
            for index, view in enumerate(views):
                call(fd, [view], index * size)
        return (time.perf_counter_ns() - began) / (BATCH * BATCHES)


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- block", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: 15)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        rig = Rig(folder)
        candidates = [
            Candidate("ours", lambda: measures(rig.device)),
            Candidate("readv", lambda: measures(rig.bare)),
            Candidate("os.preadv", lambda: measures(rig.plain)),
        ]
        results = interleave(candidates, rounds=rounds)
    return report("block", results, goals(results), unit="ns")


def measures(run: Callable[[int, int], float]) -> Times:
    """Every kind and size, by name."""
    kinds = {"read": READ, "write": WRITE}
    return {f"{kind} {size}": run(kinds[kind], SIZES[size]) for size in SIZES for kind in kinds}


def goals(results: Results) -> list[Goal]:
    """What a request may cost above its transfer, and the throughput of large ones."""
    added = results.median("ours", "read 4k") - results.median("readv", "read 4k")
    return [
        Goal("read 4k, ns above the transfer", added, 2000),
        Goal(
            "read 64k, throughput over os.preadv",
            1 / results.ratio("read 64k", "ours", "os.preadv"),
            0.9,
            at_least=True,
        ),
    ]


def _ignore(_queue: int) -> None:
    """The batches are processed without a kick."""


if __name__ == "__main__":
    sys.exit(main())
