"""Guest memory: integers, copies, lookups, writes across a border, dirty marks, file reads.

Beside ours, in the same run: `c`, the same work as a loop in C over the region table (copies are
memcpy); `cffi`, the cheapest call into C that cffi makes; `os.preadv`, what reads a file into a
memoryview. Nanoseconds per operation; Python's loop (5 to 8 ns) is in ours.

Memory is 256 MiB, in 1 region or 8 adjacent ones; addresses come from xorshift64*. `hot` are
65,536 aligned addresses in 8 times 4 KiB, `rand` anywhere, `4k` whole pages, `1m` whole MiBs.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from benchmarks._floor import compile_floor
from benchmarks.harness import Candidate, Goal, Results, interleave, report
from vm_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MIB = 1 << 20
SIZE = 256 * MIB
REGION = SIZE // 8
DECLARATIONS = """
double floor_find(const uint64_t *table, const uint64_t *list, int count);
double floor_load(const uint64_t *table, const uint64_t *list, int count);
double floor_store(const uint64_t *table, const uint64_t *list, int count);
double floor_read(const uint64_t *table, const uint64_t *list, int count, char *buffer, int size);
double floor_write(const uint64_t *table, const uint64_t *list, int count, char *buffer, int size);
void noop(void);
"""


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- vm_memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: 15)")
    rounds = parser.parse_args().rounds
    work = Work()
    with tempfile.TemporaryDirectory() as folder:
        floor = Floor(compile_floor("vm_memory_floor", DECLARATIONS, folder))
        # Group by group, so that what is compared runs close together: the machine has phases.
        results = Results({})
        for group in (integers(work, floor), copies(work, floor), files(work)):
            for candidates in group:
                results = results.with_more(interleave(candidates, rounds=rounds))
    return report("vm_memory", results, goals(results), unit="ns")


def goals(results: Results) -> list[Goal]:
    """What the package promises, each against its anchor in the same group of runs."""
    ns, c = (functools.partial(results.median, name) for name in ("ours", "c"))
    call = results.median("cffi", "call")
    return [
        Goal("load-8-regions/cffi-call", ns("load hot r8") / call, 2.5),
        Goal("load-8-regions/cffi-call-stretch", ns("load hot r8") / call, 0.8),
        Goal("read-1m/memcpy", c("read 1m") / ns("read 1m"), 0.95, at_least=True),
        Goal("write-1m/memcpy", c("write 1m") / ns("write 1m"), 0.95, at_least=True),
        Goal("read-4k-ns", ns("read 4k"), 2 * c("read 4k") + 200),
        Goal("write-4k-ns", ns("write 4k"), 2 * c("write 4k") + 200),
        Goal("write-across-ns", ns("write 4k across"), 400),
        Goal("find-8-ns", ns("find r8"), 150),
        Goal("find-256/find-8", ns("find r256") / ns("find r8"), 2),
    ]


class Work:
    """Memory and lists of addresses, the same for every candidate."""

    def __init__(self) -> None:
        self.one = filled(GuestMemory.from_ranges([(0, SIZE)]))
        self.eight = filled(GuestMemory.from_ranges([(i * REGION, REGION) for i in range(8)]))
        self.many = GuestMemory.from_ranges([(i * MIB, MIB) for i in range(256)])
        self.tracked = filled(GuestMemory.from_ranges([(0, SIZE)], track_dirty=True))
        out = xorshift()
        self.rand = [next(out) % (SIZE // 8) * 8 for _ in range(65536)]
        self.hot = [
            (value >> 32) % 8 * REGION + value % 512 * 8
            for value in (next(out) for _ in range(65536))
        ]
        self.pages = [next(out) % (SIZE // 4096) * 4096 for _ in range(4096)]
        self.megs = [next(out) % 256 * MIB for _ in range(64)]
        self.across = [k * REGION - 2048 for k in range(1, 8)] * 512
        self.buffer = bytearray(MIB)
        self.file = os.memfd_create("benchmark")
        os.write(self.file, bytes(MIB))


def filled(memory: GuestMemory) -> GuestMemory:
    """Every page written once."""
    for address in range(0, SIZE, MIB):
        memory.write(address, b"\xa5" * MIB)
    return memory


def xorshift() -> Iterator[int]:
    """Marsaglia's xorshift64* from a fixed state."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    while True:
        state ^= state >> 12
        state = (state ^ state << 25) & mask
        state ^= state >> 27
        yield state * 0x2545F4914F6CDD1D & mask


Group = list[list[Candidate]]


def integers(work: Work, floor: Floor) -> Group:
    """Loads, stores and lookups: nanoseconds where a call into C costs dozens of them."""
    hot, rand = floor.addresses(work.hot), floor.addresses(work.rand)
    eight, many, lib = floor.table(work.eight), floor.table(work.many), floor.lib
    a_call = Candidate("cffi", lambda: {"call": per_call(lib.noop, work.hot)})
    return [
        [
            pass_over("ours", "load hot r8", work.eight.load, work.hot, 8),
            a_call,
            in_c("load hot r8", lib.floor_load, eight, *hot),
            pass_over("ours", "store hot r8", work.eight.store, work.hot, 0xA5, 8),
            in_c("store hot r8", lib.floor_store, eight, *hot),
            pass_over("ours", "load hot r1", work.one.load, work.hot, 8),
            pass_over("ours", "store hot dirty", work.tracked.store, work.hot, 0xA5, 8),
        ],
        [
            pass_over("ours", "load rand r8", work.eight.load, work.rand, 8),
            in_c("load rand r8", lib.floor_load, eight, *rand),
        ],
        [
            pass_over("ours", "find r1", work.one.find_region, work.rand),
            pass_over("ours", "find r8", work.eight.find_region, work.rand),
            pass_over("ours", "find r256", work.many.find_region, work.rand),
            in_c("find r8", lib.floor_find, eight, *rand),
            in_c("find r256", lib.floor_find, many, *rand),
        ],
    ]


def copies(work: Work, floor: Floor) -> Group:
    """Pages and MiBs into and out of one buffer, which is what memcpy does in C."""
    pages, megs = floor.addresses(work.pages), floor.addresses(work.megs)
    eight, lib, buffer = floor.table(work.eight), floor.lib, floor.buffer(work.buffer)
    page, meg = memoryview(work.buffer)[:4096], memoryview(work.buffer)
    return [
        [
            pass_over("ours", "read 4k", work.eight.read_into, work.pages, page),
            in_c("read 4k", lib.floor_read, eight, *pages, buffer, 4096),
        ],
        [
            pass_over("ours", "write 4k", work.eight.write, work.pages, page),
            in_c("write 4k", lib.floor_write, eight, *pages, buffer, 4096),
            pass_over("ours", "write 4k dirty", work.tracked.write, work.pages, page),
        ],
        [
            pass_over("ours", "write 4k across", work.eight.write, work.across, page),
            pass_over("ours", "view 4k", work.eight.view, work.pages, 4096),
        ],
        [
            pass_over("ours", "read 1m", work.eight.read_into, work.megs, meg),
            in_c("read 1m", lib.floor_read, eight, *megs, buffer, MIB),
        ],
        [
            pass_over("ours", "write 1m", work.eight.write, work.megs, meg),
            in_c("write 1m", lib.floor_write, eight, *megs, buffer, MIB),
        ],
    ]


def files(work: Work) -> Group:
    """A file's page into pages of the guest, by us and by the standard library."""
    views = {page: [work.eight.view(page, 4096)] for page in work.pages}

    def standard(page: int, file: int) -> int:
        return os.preadv(file, views[page], 0)

    def vectored(page: int, file: int) -> int:
        return work.eight.readv(file, [(page, 16), (page + 512, 3584)], 0)

    return [
        [
            pass_over(
                "ours", "file read 4k", work.eight.read_from_fd, work.pages, work.file, 4096, 0
            ),
            pass_over("os.preadv", "file read 4k", standard, work.pages, work.file),
            pass_over("ours", "file readv 4k", vectored, work.pages, work.file),
        ]
    ]


def pass_over(
    name: str, measure: str, call: Callable[..., object], items: Sequence[int], *rest: object
) -> Candidate:
    """A candidate that calls ``call(item, *rest)`` for every item."""
    return Candidate(name, lambda: {measure: per_item(call, items, *rest)})


def in_c(measure: str, function: Callable[..., float], *arguments: object) -> Candidate:
    """A candidate whose loop is in C."""
    return Candidate("c", lambda: {measure: function(*arguments)})


def per_item(call: Callable[..., object], items: Sequence[int], *rest: object) -> float:
    """Nanoseconds of ``call(item, *rest)``, with as many arguments as in real use."""
    if len(rest) == 1:
        (only,) = rest
        start = time.perf_counter_ns()
        for item in items:
            call(item, only)
    elif len(rest) == 2:
        first, second = rest
        start = time.perf_counter_ns()
        for item in items:
            call(item, first, second)
    else:
        start = time.perf_counter_ns()
        for item in items:
            call(item, *rest)
    return (time.perf_counter_ns() - start) / len(items)


def per_call(call: Callable[[], object], items: Sequence[int]) -> float:
    """Nanoseconds of a call without arguments, in a loop of the same kind."""
    start = time.perf_counter_ns()
    for _ in items:
        call()
    return (time.perf_counter_ns() - start) / len(items)


class Floor:
    """The compiled C, and what it takes as arguments."""

    def __init__(self, module: Any) -> None:
        self.ffi, self.lib = module.ffi, module.lib

    def table(self, memory: GuestMemory) -> Any:
        """The region table of `memory`; it borrows the memory."""
        return self.ffi.from_buffer("uint64_t[]", memory.table)

    def buffer(self, memory: bytearray) -> Any:
        """The bytes of `memory` as C sees them."""
        return self.ffi.from_buffer("char[]", memory)

    def addresses(self, values: Sequence[int]) -> tuple[Any, int]:
        """A list as C sees it, and its length."""
        return self.ffi.new("uint64_t[]", values), len(values)


if __name__ == "__main__":
    sys.exit(main())
