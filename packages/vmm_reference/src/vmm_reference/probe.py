"""Telling a KVM that runs stock kernels from one that only emulates.

Some hosts have a ``/dev/kvm`` that accepts every ioctl but interprets the guest's kernel mode in
software, and stops at the first instruction that its interpreter lacks. Names, CPUID and timing do
not tell them apart reliably; executing does. `run_probe` runs the guest of
`vmm_reference.probe_guest`, step by step, until one fails. Nothing is
remembered: it takes milliseconds.
"""

from __future__ import annotations

import mmap
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvm_ioctls import Dtable, Kicker, Regs, Segment
from kvm_ioctls.exits import Hlt, InternalError, Interrupted, IoOut, Shutdown
from vmm_reference import probe_guest as guest
from vmm_reference.arch.x86_64 import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvm_ioctls.exits import Exit
    from kvm_ioctls.protocols import Hypervisor, Vcpu

ALL_STEPS = range(1, len(guest.STEPS) + 1)
STEP_TIMEOUT_NS = 200_000_000
"""A step takes microseconds; what takes this long is stuck (a KVM may spin on an instruction)."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe found.

    Attributes:
        failed_step: the first step that failed, counted from 1; 0 if all passed.
        reason: what failed and how; empty if all passed.
    """

    failed_step: int = 0
    reason: str = ""

    @property
    def runs_stock_kernels(self) -> bool:
        """Whether every step passed."""
        return self.failed_step == 0


def run_probe(
    hypervisor: Hypervisor,
    *,
    steps: Iterable[int] = ALL_STEPS,
    step_timeout_ns: int = STEP_TIMEOUT_NS,
) -> ProbeResult:
    """Run the probe guest on `hypervisor` until a step fails.

    Args:
        hypervisor: the hypervisor to judge.
        steps: which steps to run, by number.
        step_timeout_ns: how long one may take.

    Raises:
        OSError: the hypervisor could not even create the guest.
    """
    memory = mmap.mmap(-1, guest.MEMORY_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory[:] = guest.build()
        return _probe_in(hypervisor, memory, steps, step_timeout_ns)
    finally:
        memory.close()


def _probe_in(
    hypervisor: Hypervisor, memory: mmap.mmap, steps: Iterable[int], step_timeout_ns: int
) -> ProbeResult:
    vm = hypervisor.create_vm()
    try:
        vm.set_tss_address(layout.KVM_TSS_ADDRESS)
        with memoryview(memory) as view:
            vm.set_user_memory_region(0, 0, view)
            vcpu = vm.create_vcpu(0)
            try:
                vcpu.set_cpuid2(hypervisor.get_supported_cpuid())
                return _run_steps(vcpu, steps, step_timeout_ns)
            finally:
                vcpu.close()
                vm.set_user_memory_region(0, 0, None)
    finally:
        vm.close()


def _run_steps(vcpu: Vcpu, steps: Iterable[int], step_timeout_ns: int) -> ProbeResult:
    for step in steps:
        _enter_step(vcpu, step)
        failure = _failure(_run_guarded(vcpu, step_timeout_ns), step)
        if failure:
            return ProbeResult(step, f"{guest.STEPS[step - 1][0]}: {failure}")
    return ProbeResult()


def _enter_step(vcpu: Vcpu, step: int) -> None:
    """Put the vCPU at the start of a step, in 64-bit mode at CPL 0, whatever the last step left."""
    sregs = vcpu.get_sregs()
    sregs.cs = _segment(guest.CODE_SELECTOR, type=0xB, l=1, db=0)
    data = _segment(guest.DATA_SELECTOR, type=0x3, l=0, db=1)
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    sregs.tr = Segment(
        base=guest.TSS, limit=0x67, selector=guest.TSS_SELECTOR, type=0xB, present=1, s=0
    )
    sregs.ldt = Segment(unusable=1)
    sregs.gdt = Dtable(base=guest.GDT, limit=guest.GDT_LIMIT)
    sregs.idt = Dtable(base=guest.IDT, limit=guest.IDT_LIMIT)
    sregs.cr3 = guest.PML4
    sregs.cr4 = 0x620  # PAE, OSFXSR, OSXMMEXCPT
    sregs.cr0 = 0x8005_0033  # PG, AM, WP, NE, ET, MP, PE
    sregs.efer = 0x500  # LMA, LME
    vcpu.set_sregs(sregs)
    vcpu.set_regs(Regs(rip=guest.step_address(step), rsp=guest.STACK_TOP, rflags=2))


def _segment(selector: int, *, type: int, l: int, db: int) -> Segment:  # noqa: A002, E741  # KVM's field names
    return Segment(selector=selector, limit=0xFFFF_FFFF, type=type, present=1, s=1, g=1, l=l, db=db)


def _run_guarded(vcpu: Vcpu, timeout_ns: int) -> Exit:
    """Run until the guest exits, or until it is kicked because its time is up."""
    deadline = time.monotonic_ns() + timeout_ns
    # The timer may fire when the probe is over and the vCPU closed.
    guard = threading.Timer(timeout_ns / 1e9, Kicker(vcpu).kick)
    guard.daemon = True
    guard.start()
    try:
        while True:
            left = vcpu.run()
            # A kick meant for an earlier step, or a signal of the process's own, ends a run early.
            if not isinstance(left, Interrupted) or time.monotonic_ns() >= deadline:
                return left
    finally:
        guard.cancel()


def _failure(left: Exit, step: int) -> str:
    """Say how a step that ended with `left` failed; empty if it passed."""
    match left:
        case IoOut(port=guest.REPORT_PORT, data=data) if data[0] == step:
            return ""
        case InternalError(suberror=suberror, insn_bytes=insn):
            code = f" at {bytes(insn[:6]).hex(' ')}" if insn else ""
            return f"internal error {suberror}{code}"
        case Hlt():
            return "wrong result, or an unexpected fault"
        case Shutdown():
            return "triple fault"
        case Interrupted():
            return "no end in sight"
        case _:
            return f"unexpected exit {left!r}"
