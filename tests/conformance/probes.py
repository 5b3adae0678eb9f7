"""What a KVM may lack: asked by running it, never by name.

Some KVMs emulate supervisor code, and end in an internal error at instructions or events that they
do not know.  A probe returns what failed, or '' when all is well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import guests
from machine import HANDLER, HANDLERS, Machine

from kvm_ioctls import Hlt, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_ioctls import Exit, Hypervisor

STAR, LSTAR, SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084


def allow_syscall(machine: Machine) -> None:
    """Leads SYSCALL to `guests.SYSCALL_ENTRY`, with interrupts masked on entry."""
    machine.put(HANDLERS, guests.SYSCALL_ENTRY)
    sregs = machine.vcpu.get_sregs()
    sregs.efer |= 1
    machine.vcpu.set_sregs(sregs)
    machine.vcpu.set_msrs({STAR: 0x0023_0010 << 32, LSTAR: HANDLERS, SFMASK: 0x200})


def enter_ring3(machine: Machine, guest: bytes) -> None:
    """Long mode, about to IRETQ to `guest` at CPL 3."""
    machine.long_mode(guests.TO_RING3, rbx=0x1800)
    machine.put(0x1800, guest)


def describe(exit_: Exit) -> str:
    match exit_:
        case InternalError():
            return f"KVM_EXIT_INTERNAL_ERROR, {exit_}"
        case other:
            return repr(other)


def _step(guest: bytes) -> Callable[[Machine], str]:
    """A guest that must reach its HLT without meeting an exception."""

    def run(machine: Machine) -> str:
        machine.long_mode(guest)
        exit_ = machine.run()
        end = 0x1000 + len(guest)
        if isinstance(exit_, Hlt) and machine.vcpu.get_regs().rip == end:
            return ""
        return describe(exit_)

    return run


def _breakpoint(machine: Machine) -> str:
    machine.long_mode(guests.INT3)
    exit_ = machine.run()
    if isinstance(exit_, Hlt) and HANDLER < machine.vcpu.get_regs().rip < HANDLERS:
        return ""
    return describe(exit_)


def _syscall(machine: Machine) -> str:
    enter_ring3(machine, guests.USER_SYSCALL)
    allow_syscall(machine)
    exit_ = machine.run()
    if not isinstance(exit_, Hlt):
        return describe(exit_)
    regs = machine.vcpu.get_regs()
    return "" if regs.rbx & 3 == 0 and regs.rax == 0x100 else "it does not enter CPL 0"


STEPS = {
    "SSE2 at CPL 0": _step(guests.SSE2),
    "x87 and FXSAVE at CPL 0": _step(guests.X87),
    "LSL and VERW": _step(guests.SEGMENT_CHECKS),
    "INT3 at CPL 0": _breakpoint,
    "SYSCALL from ring 3": _syscall,
    "CR3, INVLPG, CMPXCHG8B, SWAPGS": _step(guests.SYSTEM_STATE),
}


def missing_for_stock_kernels(hypervisor: Hypervisor) -> str:
    """The first of `STEPS` that fails, and how."""
    for name, step in STEPS.items():
        with Machine(hypervisor) as machine:
            if failure := step(machine):
                return f"{name}: {failure}"
    return ""
