"""kvm_ioctls beside C: exits per second, registers, machines, and what needs no exit at all.

Both run the same guests in real mode: an endless loop of OUT, of a store or of a load where no
memory is, or 50,000 OUTs and HLT. The handler looks at each exit's port or address and adds up its
data, in Python through a dictionary of handlers. C (`kvm_floor.c`) is compiled at the start, does
the same with ioctl() alone, and is run in turn with ours, measurement by measurement.

"added" is what an exit costs more here than in C, in microseconds; "decode" the part of it that is
left when KVM_RUN does nothing. What KVM or C retires is compared with an exit without the guest's
part of both: a KVM that emulates takes a microsecond for the loop around the OUT (C measures it,
with a NOP there). Rounds are short and many: a shared machine changes its pace.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Candidate, Goal, Measures, Results, interleave, report
from kvm_ioctls import Hlt, IoOut, Kvm, KvmUnavailable, LogZone, MmioRead, MmioWrite, Pio, Zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kvm_ioctls import VcpuFd, VmFd

FLOOR = Path(__file__).with_name("kvm_floor.c")
CODE = 0x1000
OUT = "baf803eeebfd"  # mov dx, 0x3f8; 1: out dx, al; jmp 1b
STORE = "a20000ebfb"  # 1: mov [0], al; jmp 1b
LOAD = "a00000ebfb"  # 1: mov al, [0]; jmp 1b
OFFLOADED = 50_000
OUT_50000 = "baf80366b950c30000ee664975fbf4"  # … 1: out dx, al; dec ecx; jnz 1b; hlt
CALLS, MACHINES = 20_000, 51
SWITCH_S = 20e-6
NS, US = 1e9, 1e6


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- kvm_ioctls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved pairs (default: 15)")
    parser.add_argument("--exits", type=int, default=20_000, help="per loop (default: 20000)")
    arguments = parser.parse_args()
    try:
        Kvm().close()
    except KvmUnavailable as error:
        sys.exit(f"bench: {error}")
    with tempfile.TemporaryDirectory() as folder, machine() as (vm, vcpu, memory):
        floor = compile_floor(Path(folder))
        bench = Bench(vm, vcpu, memory, arguments.exits)
        found = [
            interleave(
                [
                    Candidate("kvm_ioctls", getattr(bench, name)),
                    Candidate("C", partial(measures_of, floor, name, arguments.exits)),
                ],
                rounds=arguments.rounds,
            )
            for name in ("pio", "mmio_write", "mmio_read", "loops", "registers", "create")
        ]
        found.append(interleave([Candidate("kvm_ioctls", bench.alone)], rounds=arguments.rounds))
    results = merged(found)
    return report("kvm_ioctls", results, goals(results), unit="(exits/s, ns, us)")


def merged(parts: Sequence[Results]) -> Results:
    """The measures of all parts, by candidate."""
    samples: dict[str, dict[str, Sequence[float]]] = {}
    for part in parts:
        for candidate, measures in part.samples.items():
            samples.setdefault(candidate, {}).update(measures)
    return Results(samples)


def compile_floor(folder: Path) -> Path:
    """Our C program, compiled."""
    program = folder / "kvm_floor"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", str(program), str(FLOOR)], check=True)
    return program


def measures_of(program: Path, name: str, exits: int) -> Measures:
    """What the C program prints of one measurement."""
    command = [str(program), name, str(exits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return {name: float(value) for name, value in map(str.split, done.stdout.splitlines())}


def goals(results: Results) -> list[Goal]:
    """The issue's: ratios to C of the same run, and costs in microseconds."""

    def median(measure: str) -> float:
        return results.median("kvm_ioctls", measure)

    def ratio(measure: str) -> float:
        return results.ratio(measure, "kvm_ioctls", "C")

    def round_trip(name: str) -> float:
        calls = [f"get_{name}_ns", f"set_{name}_ns"]
        ours, c = (
            sum(results.median(candidate, call) for call in calls)
            for candidate in ("kvm_ioctls", "C")
        )
        return ours / c

    guest_ns = results.median("C", "guest_ns")
    exit_ns = results.median("C", "loop_ns") - guest_ns

    def retired(candidate: str, measure: str) -> float:
        return (results.median(candidate, measure) - guest_ns) / exit_ns

    added = {
        name: US / median(f"{name}_rate") - US / results.median("C", f"{name}_rate")
        for name in ("pio", "mmio_write", "mmio_read")
    }
    return [
        *(
            Goal(f"{name}, exits/s to C", ratio(f"{name}_rate"), 0.9, at_least=True)
            for name in added
        ),
        *(Goal(f"{name}, added us per exit", cost, 1.0) for name, cost in added.items()),
        Goal("decode and dispatch, us per exit", median("decode_ns") / 1000, 1.0),
        Goal("zone to C's loop", median("zone_ns") / results.median("C", "loop_ns"), 1.05),
        *(
            Goal(f"{kind} to an exit{where}", retired(candidate, f"{kind}_ns"), 0.15)
            for kind in ("coalesced", "ioeventfd")
            for candidate, where in (("kvm_ioctls", ""), ("C", ", in C"))
        ),
        Goal("coalesced to C", ratio("coalesced_ns"), 1.1),
        *(
            Goal(f"{name} read and written back, to C", round_trip(name), 1.25)
            for name in ("regs", "sregs")
        ),
        Goal("creation to C", ratio("create_us"), 1.2),
        Goal("exits/s beside a busy thread", median("busy_rate"), 10_000, at_least=True),
    ]


class Bench:
    """Our side of each measurement, on one machine."""

    def __init__(self, vm: VmFd, vcpu: VcpuFd, memory: mmap, exits: int) -> None:
        self.vm = vm
        self.vcpu = vcpu
        self.memory = memory
        self.exits = exits

    def pio(self) -> Measures:
        """Exits per second of OUT."""
        return {"pio_rate": self._rate(OUT, IoOut)}

    def mmio_write(self) -> Measures:
        """Exits per second of a store."""
        return {"mmio_write_rate": self._rate(STORE, MmioWrite)}

    def mmio_read(self) -> Measures:
        """Exits per second of a load."""
        return {"mmio_read_rate": self._rate(LOAD, MmioRead)}

    def _rate(self, code: str, kind: type[IoOut | MmioRead | MmioWrite]) -> float:
        load(self.vcpu, self.memory, code)
        loop(self.vcpu.run, kind, self.exits // 20)
        return self.exits / loop(self.vcpu.run, kind, self.exits)

    def loops(self) -> Measures:
        """Nanoseconds per OUT that Python does not see."""
        return offloaded(self.vm, self.vcpu, self.memory)

    def registers(self) -> Measures:
        """Nanoseconds per call."""
        return registers(self.vcpu)

    def create(self) -> Measures:
        """Microseconds per machine with a vCPU."""
        return {"create_us": create()}

    def alone(self) -> Measures:
        """What C has no counterpart of."""
        load(self.vcpu, self.memory, OUT)
        self.vcpu.run()
        decode = loop(self.vcpu.run_page.decode, IoOut, self.exits)
        return {
            "decode_ns": decode / self.exits * NS,
            "busy_rate": beside_a_busy_thread(self.vcpu, self.exits // 2),
        }


@contextmanager
def machine() -> Iterator[tuple[VmFd, VcpuFd, mmap]]:
    """A machine with 64 KiB of memory."""
    memory = mmap(-1, 0x10000)
    with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vm.set_user_memory_region(0, 0, memory)
        yield vm, vcpu, memory


def load(vcpu: VcpuFd, memory: mmap, code: str) -> None:
    """The vCPU is about to execute `code` in real mode."""
    data = bytes.fromhex(code)
    memory[CODE : CODE + len(data)] = data
    sregs, regs = vcpu.get_sregs(), vcpu.get_regs()
    sregs.cs.base = sregs.cs.selector = 0
    sregs.ds.base = 0x20000
    regs.rip, regs.rflags, regs.rax = CODE, 2, 0x41
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)


class Device:
    """Adds up what is written to it; its one register reads as 0x5a."""

    def __init__(self) -> None:
        self.total = 0

    def write(self, data: memoryview) -> None:
        """Takes the bytes."""
        self.total += data[0]

    def read(self, data: memoryview) -> None:
        """Gives the register."""
        data[0] = 0x5A
        self.total += 1


def loop(run: Callable[[], object], kind: type[IoOut | MmioRead | MmioWrite], count: int) -> float:
    """Seconds that `count` exits take, each handed to the handler of its port or address."""
    device = Device()
    on_write = {0x3F8: device.write, 0x20000: device.write}
    on_read = {0x20000: device.read}
    start = time.perf_counter()
    for _ in range(count):
        exit_ = run()
        if type(exit_) is IoOut:
            on_write[exit_.port](exit_.data)
        elif type(exit_) is MmioWrite:
            on_write[exit_.address](exit_.data)
        elif type(exit_) is MmioRead:
            on_read[exit_.address](exit_.data)
    seconds = time.perf_counter() - start
    assert device.total == count * (1 if kind is MmioRead else 0x41)
    return seconds


def beside_a_busy_thread(vcpu: VcpuFd, count: int) -> float:
    """Exits per second while another thread computes in Python, with a short switch interval."""
    stop = False

    def compute() -> None:
        while not stop:
            pass

    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    thread = threading.Thread(target=compute)
    thread.start()
    try:
        return count / loop(vcpu.run, IoOut, count)
    finally:
        stop = True
        sys.setswitchinterval(usual)
        thread.join()


def offloaded(vm: VmFd, vcpu: VcpuFd, memory: mmap) -> Measures:
    """Nanoseconds per OUT that Python never sees, of 50,000."""
    measures, port = {}, Pio(0x3F8)
    log = LogZone(port, 1, OFFLOADED)
    for name, zone in (("zone", Zone(port, 1)), ("log_zone", log)):
        vcpu.set_zones([zone])
        measures[f"{name}_ns"] = outs(vcpu, memory)
    assert len(log.drain()) == OFFLOADED
    vcpu.set_zones([])
    event = os.eventfd(0)
    vm.register_ioevent(event, port)
    measures["ioeventfd_ns"] = outs(vcpu, memory)
    assert os.eventfd_read(event) == OFFLOADED
    vm.unregister_ioevent(event, port)
    os.close(event)
    vm.register_coalesced_mmio(port, 1)
    ring, seen = vcpu.coalesced_ring(), [0]

    def drain() -> None:
        seen[0] += len(ring.drain()) + 1

    measures["coalesced_ns"] = outs(vcpu, memory, drain)
    assert seen[0] + len(ring.drain()) == OFFLOADED
    vm.unregister_coalesced_mmio(port, 1)
    return measures


def outs(vcpu: VcpuFd, memory: mmap, when_out: Callable[[], None] | None = None) -> float:
    """Nanoseconds per OUT of a guest that makes 50,000 of them."""
    load(vcpu, memory, OUT_50000)
    start = time.perf_counter()
    while not isinstance(vcpu.run(), Hlt):
        assert when_out is not None
        when_out()
    return (time.perf_counter() - start) / OFFLOADED * NS


def registers(vcpu: VcpuFd) -> Measures:
    """Nanoseconds per call."""
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()

    def timed(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        return (time.perf_counter() - start) / CALLS * NS

    return {
        "get_regs_ns": timed(vcpu.get_regs),
        "set_regs_ns": timed(lambda: vcpu.set_regs(regs)),
        "get_sregs_ns": timed(vcpu.get_sregs),
        "set_sregs_ns": timed(lambda: vcpu.set_sregs(sregs)),
    }


def create() -> float:
    """Microseconds, the median, from nothing to a vCPU."""
    took = []
    for _ in range(MACHINES):
        start = time.perf_counter()
        kvm = Kvm()
        vm = kvm.create_vm()
        vcpu = vm.create_vcpu(0)
        took.append((time.perf_counter() - start) * US)
        for one in vcpu, vm, kvm:
            one.close()
    return statistics.median(took)


if __name__ == "__main__":
    sys.exit(main())
