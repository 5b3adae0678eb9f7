"""Virtqueues: what a chain of three descriptors costs a device, with and without a handler.

Beside ours, in the same run: `c`, the device's part of the same work as a loop in C. The driver's
part is in no figure. Nanoseconds per chain.

Each round makes 64 chains available: 16 bytes to read, 4096 to write, 1 to write. `drain` gives
them back in C (`Queue.discard`); `batch` takes them with `pop_batch`, adds up their sizes in
Python and gives them back with `add_used_batch`; `single` does so one by one, asking after each
whether to notify; `request` reads the header, takes the spans of the data and writes the status.

Beside a loop in C on the same machine, rust-vmm's virtio-queue 0.18 took 3.5 times as long (98 ns
to 28) for the pop, the walk and the add_used.
"""

from __future__ import annotations

import argparse
import functools
import struct
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from benchmarks._floor import compile_floor
from benchmarks.harness import Candidate, Goal, Results, interleave, report
from virtio_devices import PackedLayout, PackedQueue, Queue, SplitLayout, SplitQueue
from vm_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY = 256 << 20
CHAINS = 64
ROUNDS = 100
LAYOUT = SplitLayout(256, 0x1000, 0x2000, 0x3000)
PACKED = PackedLayout(3 * CHAINS, 0x4000, 0x5000, 0x5004)
NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
WRITTEN = 4097
DECLARATIONS = """
double floor_split(const uint64_t *table, int event_idx, int rounds);
double floor_packed(const uint64_t *table, const char *laps, int rounds);
"""


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- virtio", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        floor = compile_floor("virtio_floor", DECLARATIONS, folder)
        results = Results({})
        for group in (split(floor), split(floor, indirect=True), events(floor), packed(floor)):
            results = results.with_more(interleave(group, rounds=rounds))
    return report("virtio", results, goals(results), unit="ns")


def goals(results: Results) -> list[Goal]:
    """What the package promises, in nanoseconds and against the floor of the same runs."""
    ours = functools.partial(results.median, "ours")
    kinds = ("split", "indirect", "packed")
    return [
        *(Goal(f"drain-{kind}-ns", ours(f"{kind} drain"), 60) for kind in kinds),
        *(Goal(f"batch-{kind}-ns", ours(f"{kind} batch"), 1000) for kind in kinds),
        Goal("drain-split/c", ours("split drain") / results.median("c", "split drain"), 3.5),
        Goal("request-split-ns", ours("split request"), 2000),
    ]


class SplitWork:
    """A driver that makes the same 64 chains available again and again."""

    def __init__(self, *, indirect: bool = False, event_idx: bool = False) -> None:
        self.memory = filled(indirect=indirect)
        self.event_idx = event_idx
        self.queue: Queue = SplitQueue(self.memory, LAYOUT, event_idx=event_idx, indirect=indirect)
        self._avail = 0

    def offer(self) -> None:
        """One round of the driver."""
        self._avail = (self._avail + CHAINS) & 0xFFFF
        if self.event_idx:
            self.memory.store(LAYOUT.used_event, (self._avail - 1) & 0xFFFF, 2)
        self.memory.store(LAYOUT.avail_idx, self._avail, 2)


class PackedWork:
    """The same in a packed ring that holds exactly these chains."""

    def __init__(self) -> None:
        self.memory = filled(indirect=False)
        self.laps = b"".join(lap(wrap) for wrap in (False, True))
        self.queue: Queue = PackedQueue(self.memory, PACKED)
        self._wrap = True

    def offer(self) -> None:
        """One round of the driver."""
        half = len(self.laps) // 2
        self.memory.write(PACKED.descriptor_ring, self.laps[half * self._wrap :][:half])
        self._wrap = not self._wrap


def elements(chain: int) -> list[tuple[int, int, int]]:
    """(address, size, flags) of the buffers of one chain."""
    buffer = 0x100000 + 0x2000 * chain
    return [(buffer, 16, NEXT), (buffer + 0x1000, 4096, NEXT | WRITE), (buffer + 16, 1, WRITE)]


def filled(*, indirect: bool) -> GuestMemory:
    """Memory with the descriptors of all chains and a ring of their heads."""
    memory = GuestMemory.from_ranges([(0, MEMORY)])
    for chain in range(CHAINS):
        first = 0 if indirect else 3 * chain
        table = b"".join(
            struct.pack("<QIHH", *element, first + number + 1)
            for number, element in enumerate(elements(chain))
        )
        place = 0x8000 + 48 * chain if indirect else LAYOUT.descriptor_table + 48 * chain
        memory.write(place, table)
        if indirect:
            entry = struct.pack("<QIHH", place, 48, INDIRECT, 0)
            memory.write(LAYOUT.descriptor_table + 48 * chain, entry)
    heads = struct.pack("<256H", *(slot % CHAINS * 3 for slot in range(256)))
    memory.write(LAYOUT.avail_entry(0), heads)
    return memory


def lap(wrap: bool) -> bytes:
    """A packed ring full of available chains."""
    mark = AVAIL if wrap else USED
    return b"".join(
        struct.pack("<QIHH", address, size, chain, flags | mark)
        for chain in range(CHAINS)
        for address, size, flags in elements(chain)
    )


# What a device does with a round


def drain(queue: Queue) -> int:
    """Nothing with each chain."""
    return queue.discard(CHAINS)


def batch(queue: Queue) -> int:
    """A handler in Python for each chain of a batch."""
    total = 0
    used = []
    for chain in queue.pop_batch(CHAINS):
        total += chain.reader.size + chain.writer.size
        used.append((chain, WRITTEN))
    queue.add_used_batch(used)
    queue.needs_notification()
    return len(used)


def single(queue: Queue) -> int:
    """One by one, with the question after each."""
    total = count = 0
    while (chain := queue.pop()) is not None:
        total += chain.reader.size + chain.writer.size
        queue.add_used(chain, WRITTEN)
        queue.needs_notification()
        count += 1
    return count


def request(queue: Queue) -> int:
    """The frame of a block read: header, place of the data, status."""
    used = []
    for chain in queue.pop_batch(CHAINS):
        header = chain.reader.read(16)
        writer = chain.writer
        writer.spans(writer.size - 1)
        writer.write(header[:1])
        used.append((chain, writer.written))
    queue.add_used_batch(used)
    queue.needs_notification()
    return len(used)


def per_chain(work: SplitWork | PackedWork, device: Callable[[Queue], int]) -> float:
    """Nanoseconds of the device's part per chain."""
    spent = 0
    for _ in range(ROUNDS):
        work.offer()
        start = time.perf_counter_ns()
        count = device(work.queue)
        spent += time.perf_counter_ns() - start
        assert count == CHAINS
    return spent / ROUNDS / CHAINS


def ours(kind: str, work: SplitWork | PackedWork, *devices: Callable[[Queue], int]) -> Candidate:
    """All of these devices, one after the other."""
    return Candidate(
        "ours",
        lambda: {f"{kind} {device.__name__}": per_chain(work, device) for device in devices},
    )


# Groups: what is compared runs close together


def split(floor: Any, *, indirect: bool = False) -> list[Candidate]:
    """A split queue, direct or indirect descriptors."""
    kind = "indirect" if indirect else "split"
    table = floor.ffi.from_buffer("uint64_t[]", filled(indirect=indirect).table)
    return [
        ours(kind, SplitWork(indirect=indirect), drain, batch, single, request),
        Candidate("c", lambda: {f"{kind} drain": floor.lib.floor_split(table, 0, ROUNDS)}),
    ]


def events(floor: Any) -> list[Candidate]:
    """With EVENT_IDX and the question after each chain."""
    table = floor.ffi.from_buffer("uint64_t[]", filled(indirect=False).table)
    return [
        ours("event_idx", SplitWork(event_idx=True), batch, single),
        Candidate("c", lambda: {"event_idx single": floor.lib.floor_split(table, 1, ROUNDS)}),
    ]


def packed(floor: Any) -> list[Candidate]:
    """A packed queue."""
    work = PackedWork()
    table = floor.ffi.from_buffer("uint64_t[]", filled(indirect=False).table)
    return [
        ours("packed", work, drain, batch, single, request),
        Candidate("c", lambda: {"packed drain": floor.lib.floor_packed(table, work.laps, ROUNDS)}),
    ]


if __name__ == "__main__":
    sys.exit(main())
