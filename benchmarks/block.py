"""Block requests through the whole device: kick to used ring, on a file in the page cache.

Batches of 32 requests of three descriptors, reads and writes, of 4 KiB and 64 KiB, and reads one at
a time. Beside ours, in the same run: `methods`, the same device on a backend without a descriptor,
so that every request is carried out in Python; `readv`, the same transfers as a loop over
`GuestMemory.readv` and `writev`; `os.preadv`, a plain loop over memoryviews; `C`, the device's part
as a loop in C (`block_floor.c`), and `C preadv`, its transfers alone.

Then reads past the page cache, from the file system of this folder, where ours waits for a whole
batch at once (io_uring). Nanoseconds per request; making the requests available is not counted.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from benchmarks._floor import compile_floor
from benchmarks.harness import RESULTS, Candidate, Goal, Results, interleave, report
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

DECLARATIONS = """
double floor_device(const uint64_t *table, const uint64_t *areas, int fd, uint64_t disk);
double floor_transfers(const uint64_t *table, uint64_t data, uint64_t stride, uint64_t bytes,
                       int count, int write, int fd);
"""

Times = dict[str, float]


class Methods(RawImage):
    """A disk whose requests are carried out in Python."""

    transfer_fd = -1


class Rig:
    """A disk, its device, and a driver with prepared requests."""

    def __init__(
        self, folder: str, image: type[RawImage] = RawImage, *, direct: bool = False
    ) -> None:
        path = os.path.join(folder, f"disk-{image.__name__}")  # noqa: PTH118
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(os.urandom(DISK))
        self.memory = GuestMemory.from_ranges([(0, 8 << 20)])
        self.image = image(path, direct=direct)
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

    def offer(self, kind: int, size: int, count: int = BATCH) -> None:
        """Make one batch available; descriptors and buffers are the same each time."""
        self.describe(kind, size, count)
        for index in range(count):
            self.queue.offer(3 * index)

    def describe(self, kind: int, size: int, count: int = BATCH) -> None:
        """Write one batch's headers and descriptors.

        The anchors do it as well before each batch, untimed: it is what the caches forget the data
        by, which a bare loop would find there again.
        """
        for index in range(count):
            header, first = HEADERS + 16 * index, 3 * index
            self.memory.write(header, struct.pack("<IIQ", kind, 0, index * size // 512))
            data = DATA + index * STRIDE
            self.queue.write_descriptor(first, header, 16, 1, first + 1)
            flags = 1 if kind == WRITE else 3
            self.queue.write_descriptor(first + 1, data, size, flags, first + 2)
            self.queue.write_descriptor(first + 2, STATUSES + index, 1, 2)

    def device(self, kind: int, size: int, count: int = BATCH) -> float:
        """Nanoseconds per request of the whole device, `count` at a time."""
        spent = 0
        for _ in range(BATCHES):
            self.offer(kind, size, count)
            began = time.perf_counter_ns()
            self.transport.process_queue(0)
            spent += time.perf_counter_ns() - began
        assert self.memory.read(STATUSES, BATCH) == bytes(BATCH)
        return spent / (count * BATCHES)

    def bare(self, kind: int, size: int) -> float:
        """The transfers alone, by guest memory's own call."""
        call = self.memory.writev if kind == WRITE else self.memory.readv
        fd, spent = self.image.fileno(), 0
        for _ in range(BATCHES):
            self.describe(kind, size)
            began = time.perf_counter_ns()
            for index in range(BATCH):
                call(fd, [(DATA + index * STRIDE, size)], index * size)
            spent += time.perf_counter_ns() - began
        return spent / (BATCH * BATCHES)

    def plain(self, kind: int, size: int) -> float:
        """The transfers alone, by Python's."""
        call: Callable[..., int] = os.pwritev if kind == WRITE else os.preadv
        fd, spent = self.image.fileno(), 0
        views = [view[:size] for view in self.views]
        for _ in range(BATCHES):
            self.describe(kind, size)
            began = time.perf_counter_ns()
            for index, view in enumerate(views):
                call(fd, [view], index * size)
            spent += time.perf_counter_ns() - began
        return spent / (BATCH * BATCHES)


class Floor(Rig):
    """The same requests, carried out in C; the device beside it gets none."""

    def __init__(self, folder: str, module: Any) -> None:
        super().__init__(folder)
        self._ffi, self._lib = module.ffi, module.lib
        self._table = self.memory.table
        self._areas = module.ffi.new("uint64_t[]", self.queue.layout.areas)

    def device(self, kind: int, size: int, count: int = BATCH) -> float:
        """Nanoseconds per request of everything that a device does."""
        table = self._ffi.from_buffer("uint64_t *", self._table)
        fd, spent = self.image.fileno(), 0.0
        for _ in range(BATCHES):
            self.offer(kind, size, count)
            spent += self._lib.floor_device(table, self._areas, fd, DISK)
        assert self.memory.read(STATUSES, BATCH) == bytes(BATCH)
        return spent / (count * BATCHES)

    def bare(self, kind: int, size: int) -> float:
        """The transfers alone."""
        table = self._ffi.from_buffer("uint64_t *", self._table)
        fd, spent = self.image.fileno(), 0.0
        for _ in range(BATCHES):
            self.describe(kind, size)
            spent += self._lib.floor_transfers(table, DATA, STRIDE, size, BATCH, kind == WRITE, fd)
        return spent / (BATCH * BATCHES)


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- block", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: 15)")
    rounds = parser.parse_args().rounds
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        tempfile.TemporaryDirectory(dir=RESULTS) as on_disk,
    ):
        results = interleave(cached(folder), rounds=rounds)
        results = results.with_more(interleave(direct(on_disk), rounds=rounds))
    return report("block", results, goals(results), unit="ns")


def cached(folder: str) -> list[Candidate]:
    """Ours and its anchors on a file in the page cache."""
    rig, methods = Rig(folder), Rig(folder, Methods)
    floor = Floor(tempfile.mkdtemp(dir=folder), compile_floor("block_floor", DECLARATIONS, folder))
    return [
        Candidate("ours", lambda: measures(rig.device) | one_at_a_time(rig)),
        Candidate("methods", lambda: measures(methods.device) | one_at_a_time(methods)),
        Candidate("readv", lambda: measures(rig.bare)),
        Candidate("os.preadv", lambda: measures(rig.plain)),
        Candidate("C", lambda: measures(floor.device) | one_at_a_time(floor)),
        Candidate("C preadv", lambda: measures(floor.bare)),
    ]


def direct(folder: str) -> list[Candidate]:
    """Ours and its anchors past the page cache."""
    rig = Rig(folder, direct=True)
    methods = Rig(folder, Methods, direct=True)
    return [
        Candidate("ours", lambda: {"direct 4k": rig.device(READ, 4096)}),
        Candidate("methods", lambda: {"direct 4k": methods.device(READ, 4096)}),
        Candidate("os.preadv", lambda: {"direct 4k": rig.plain(READ, 4096)}),
    ]


def measures(run: Callable[[int, int], float]) -> Times:
    """Every kind and size, by name."""
    kinds = {"read": READ, "write": WRITE}
    return {f"{kind} {size}": run(kinds[kind], SIZES[size]) for size in SIZES for kind in kinds}


def one_at_a_time(rig: Rig) -> Times:
    """A small read with nothing beside it: what a call costs is not shared."""
    return {"read 4k alone": rig.device(READ, 4096, 1)}


def goals(results: Results) -> list[Goal]:
    """What a request may cost above its transfer, and the throughput of large ones."""

    def above(candidate: str, anchor: str) -> float:
        return results.median(candidate, "read 4k") - results.median(anchor, "read 4k")

    def rate(measure: str, anchor: str) -> float:
        return 1 / results.ratio(measure, "ours", anchor)

    return [
        Goal("read 4k, ns above readv", above("ours", "readv"), 2000),
        Goal("read 4k by methods, ns above readv", above("methods", "readv"), 2000),
        Goal("read 4k, ns above preadv in C", above("ours", "C preadv"), 300),
        Goal("read 64k, rate over os.preadv", rate("read 64k", "os.preadv"), 0.9, at_least=True),
        Goal("direct 4k, rate over os.preadv", rate("direct 4k", "os.preadv"), 0.9, at_least=True),
    ]


def _ignore(_queue: int) -> None:
    """The batches are processed without a kick."""


if __name__ == "__main__":
    sys.exit(main())
