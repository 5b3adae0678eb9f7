"""vm_allocator beside a linear free list, the engine that anyone would write first.

The live set is `n` blocks of 4 KiB at 2^32 + 4096 i in a space of `n` times 8 KiB. A first-match
pair frees a block chosen at random and allocates it again; `exact` asks for its address instead.
`frag20k` has 20,000 blocks with 4 KiB holes between, and allocates and frees 8 KiB behind them all.
`free` frees all blocks in a random order. Random numbers are xorshift64*, so every run does the
same. The anchors check nothing: they are floors for what takes no time to search.

All figures are microseconds per operation, or per pair of them; `unpack` is one
`struct.unpack_from`, to tell a slow moment of the machine from a slow allocator.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from bisect import bisect_left
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from benchmarks.harness import Candidate, Goal, Measures, interleave, report
from vm_allocator import AddressAllocator, BestFit, ExactMatch, IdAllocator, _btree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

BASE = 1 << 32
BLOCK = 4096
PAIRS = 10_000
FRAGMENTS = 20_000
FRAGMENT_PAIRS = 200
IDS = 100_000


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- vm_allocator", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved pairs (default: 5)")
    parser.add_argument("--order", type=int, default=_btree.ORDER, help="of the B-tree's nodes")
    arguments = parser.parse_args()
    _btree.ORDER, _btree.MINIMUM = arguments.order, arguments.order // 2
    candidates = [Candidate("vm_allocator", ours), Candidate("linear", linear)]
    results = interleave(candidates, rounds=arguments.rounds)

    def median(measure: str) -> float:
        return results.median("vm_allocator", measure)

    goals = [
        Goal("first-match-1k", median("first 1k"), 8),
        Goal("first-match-100k", median("first 100k"), 2 * 8),
        Goal("first-match-100k-to-1k", median("first 100k") / median("first 1k"), 2),
        Goal("frag20k", median("frag20k"), 20),
        Goal("free-100k", median("free 100k"), 6),
        Goal("id-churn", median("id churn"), 0.5),
    ]
    return report("vm_allocator", results, goals, unit="us")


def ours() -> Measures:
    """One round of everything with this package."""
    measures = {"unpack": unpack()}
    for name, blocks in (("1k", 1_000), ("100k", 100_000)):
        numbers = xorshift()
        space = AddressAllocator(BASE, blocks * 2 * BLOCK)
        starts = [BASE + BLOCK * index for index in range(blocks)]
        live = []
        with Timer(measures, f"fill {name}", blocks):
            for start in starts:
                live.append(space.allocate(BLOCK, BLOCK, ExactMatch(start)))  # noqa: PERF401
        chosen = [live[next(numbers) % blocks] for _ in range(PAIRS)]
        with Timer(measures, f"first {name}", PAIRS):
            for block in chosen:
                space.free(block)
                space.allocate(BLOCK, BLOCK)
        assert space.used()[-1].range == live[-1]
        with Timer(measures, f"exact {name}", PAIRS):
            for block in chosen:
                space.free(block)
                space.allocate(BLOCK, BLOCK, ExactMatch(block.start))
        shuffle(live, numbers)
        with Timer(measures, f"free {name}", blocks):
            for block in live:
                space.free(block)
    fragmented(measures)
    identifiers(measures, IdAllocator(0, 2**32 - 1))
    return measures


def fragmented(measures: Measures) -> None:
    """Allocate behind 20,000 holes that are too small, by first match and by best fit."""
    space = AddressAllocator(BASE, FRAGMENTS * 2 * BLOCK + 2 * BLOCK)
    for index in range(FRAGMENTS):
        space.allocate(BLOCK, BLOCK, ExactMatch(BASE + 2 * BLOCK * index))
    with Timer(measures, "frag20k", FRAGMENT_PAIRS):
        for _ in range(FRAGMENT_PAIRS):
            space.free(space.allocate(2 * BLOCK, BLOCK))
    space.free(space.allocate(1, policy=BestFit))  # makes the tree by size
    with Timer(measures, "frag20k best", FRAGMENT_PAIRS):
        for _ in range(FRAGMENT_PAIRS):
            space.free(space.allocate(2 * BLOCK, BLOCK, BestFit))


class FreeList:
    """The free pieces in address order; first match looks at them one by one."""

    def __init__(self, base: int, size: int) -> None:
        """Start with everything free."""
        self.starts = [base]
        self.ends = [base + size]

    def allocate(self, size: int, alignment: int) -> int:
        """Take the lowest place."""
        for index, start in enumerate(self.starts):
            aligned = (start + alignment - 1) & -alignment
            end = self.ends[index]
            if aligned + size <= end:
                pieces = [(start, aligned), (aligned + size, end)]
                kept = [piece for piece in pieces if piece[0] < piece[1]]
                self.starts[index : index + 1] = [piece[0] for piece in kept]
                self.ends[index : index + 1] = [piece[1] for piece in kept]
                return aligned
        raise MemoryError

    def free(self, start: int, size: int) -> None:
        """Give a range back and merge it with its neighbours."""
        index = bisect_left(self.starts, start)
        end = start + size
        first = last = index
        if first and self.ends[first - 1] == start:
            first -= 1
            start = self.starts[first]
        if last < len(self.starts) and self.starts[last] == end:
            end = self.ends[last]
            last += 1
        self.starts[first:last] = [start]
        self.ends[first:last] = [end]


class HeapOfIds:
    """Identifiers without a check."""

    def __init__(self) -> None:
        """Start with all free."""
        self.released: list[int] = []
        self.next = 0

    def allocate(self) -> int:
        """Hand out the lowest."""
        if self.released:
            return heappop(self.released)
        self.next += 1
        return self.next - 1

    def free(self, number: int) -> None:
        """Take one back."""
        heappush(self.released, number)


def linear() -> Measures:
    """One round of what a free list can do."""
    measures = {"unpack": unpack()}
    for name, blocks in (("1k", 1_000), ("100k", 100_000)):
        numbers = xorshift()
        space = FreeList(BASE, blocks * 2 * BLOCK)
        with Timer(measures, f"fill {name}", blocks):
            live = [space.allocate(BLOCK, BLOCK) for _ in range(blocks)]
        chosen = [live[next(numbers) % blocks] for _ in range(PAIRS)]
        with Timer(measures, f"first {name}", PAIRS):
            for block in chosen:
                space.free(block, BLOCK)
                space.allocate(BLOCK, BLOCK)
        shuffle(live, numbers)
        with Timer(measures, f"free {name}", blocks):
            for block in live:
                space.free(block, BLOCK)
    space = FreeList(BASE, FRAGMENTS * 2 * BLOCK + 2 * BLOCK)
    taken = [space.allocate(BLOCK, BLOCK) for _ in range(2 * FRAGMENTS)]
    for block in taken[1::2]:
        space.free(block, BLOCK)
    with Timer(measures, "frag20k", FRAGMENT_PAIRS):
        for _ in range(FRAGMENT_PAIRS):
            space.free(space.allocate(2 * BLOCK, BLOCK), 2 * BLOCK)
    identifiers(measures, HeapOfIds())
    return measures


def identifiers(measures: Measures, ids: IdAllocator | HeapOfIds) -> None:
    """Allocate, free and allocate again 100,000 identifiers, then free and allocate at random."""
    numbers = xorshift()
    with Timer(measures, "id fresh", IDS):
        live = [ids.allocate() for _ in range(IDS)]
    shuffle(live, numbers)
    with Timer(measures, "id free", IDS):
        for number in live:
            ids.free(number)
    with Timer(measures, "id again", IDS):
        live = [ids.allocate() for _ in range(IDS)]
    chosen = [live[next(numbers) % IDS] for _ in range(IDS)]
    with Timer(measures, "id churn", IDS):
        for number in chosen:
            ids.free(number)
            ids.allocate()


class Timer:
    """Notes under a name how many microseconds each of `count` operations took."""

    def __init__(self, measures: Measures, name: str, count: int) -> None:
        """Measure the block of a `with` statement."""
        self.measures = measures
        self.name = name
        self.count = count

    def __enter__(self) -> None:
        """Start."""
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        """Take note."""
        self.measures[self.name] = (time.perf_counter() - self.start) / self.count * 1e6


def unpack() -> float:
    """The microseconds of one `struct.unpack_from`."""
    measures: Measures = {}
    unpack_from, buffer = struct.Struct("<QII").unpack_from, bytes(16)
    with Timer(measures, "unpack", IDS):
        for _ in range(IDS):
            unpack_from(buffer)
    return measures["unpack"]


def xorshift() -> Iterator[int]:
    """xorshift64*, from the same state each time."""
    state, mask = 0x9E37_79B9_7F4A_7C15, (1 << 64) - 1
    while True:
        state ^= state >> 12
        state ^= state << 25 & mask
        state ^= state >> 27
        yield state * 0x2545_F491_4F6C_DD1D & mask


def shuffle(items: list[Any], numbers: Iterator[int]) -> None:
    """Fisher and Yates' shuffle."""
    for index in range(len(items) - 1, 0, -1):
        other = next(numbers) % (index + 1)
        items[index], items[other] = items[other], items[index]


if __name__ == "__main__":
    sys.exit(main())
