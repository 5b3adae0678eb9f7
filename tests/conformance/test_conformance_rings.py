"""Ring 3, system calls, and the instructions that every stock kernel uses at CPL 0."""

from __future__ import annotations

import guests
import pytest
from machine import CODE, HANDLERS, RSP0, SUPERVISOR_PAGE, Machine
from probes import LSTAR, STEPS, allow_syscall, enter_ring3

from kvm_ioctls import Hlt

USER = 0x1800
BP, UD, GP, PF = 3, 6, 13, 14


@pytest.mark.parametrize(
    ("guest", "vector", "error_code", "offset"),
    [
        (guests.USER_UD2, UD, 0, 5),
        (guests.USER_HLT, GP, 0, 0),
        (guests.USER_INT3, BP, 0, 1),
        (guests.USER_LOAD, PF, 5, 5),
    ],
    ids=["ud2", "hlt", "int3", "supervisor-page"],
)
def test_exceptions_in_ring_3_reach_the_kernel(machine, guest, vector, error_code, offset):
    """They switch to the stack of the TSS and save the user's state."""
    enter_ring3(machine, guest)
    frame = machine.exception()
    assert (frame.vector, frame.error_code, frame.rip) == (vector, error_code, USER + offset)
    assert (frame.cs, frame.ss, frame.rsp) == (0x33, 0x2B, 0x5F00)
    assert machine.word(0x6000) == RSP0 - 40 - 16
    assert machine.vcpu.get_sregs().cs.dpl == 0


def test_the_user_s_registers_reach_the_kernel(machine):
    """What ring 3 computed is in the registers at the exception."""
    enter_ring3(machine, guests.USER_UD2)
    machine.exception()
    assert machine.vcpu.get_regs().rax == 0x33


def test_a_user_page_fault_sets_cr2(machine):
    """CR2 is the address that ring 3 touched."""
    enter_ring3(machine, guests.USER_LOAD)
    machine.exception()
    assert machine.vcpu.get_sregs().cr2 == SUPERVISOR_PAGE


def test_returning_to_ring_3(machine):
    """IRETQ resumes the user behind its INT3, which runs on to the next exception."""
    enter_ring3(machine, guests.USER_INT3 + guests.USER_UD2)
    assert machine.exception().vector == BP
    frame = machine.exception()
    assert (frame.vector, frame.rip) == (UD, USER + 6)


@pytest.mark.stock_kvm
def test_syscall_and_sysret(machine, stock):
    """SYSCALL enters CPL 0 at LSTAR with RCX, R11 and the masked flags; SYSRET goes back."""
    enter_ring3(machine, guests.USER_SYSCALL)
    allow_syscall(machine)
    for number, return_to in (0x100, USER + 7), (0x200, USER + 14):
        assert isinstance(machine.run(), Hlt)
        regs, sregs = machine.vcpu.get_regs(), machine.vcpu.get_sregs()
        assert (regs.rax, regs.rcx, regs.r11 & ~0x10000) == (number, return_to, 2)
        assert (regs.rbx & 0xFFFF, regs.rdx & 0xFFFF) == (0x10, 0x18)
        assert (sregs.cs.selector, sregs.cs.dpl, sregs.ss.selector) == (0x10, 0, 0x18)
        assert HANDLERS < regs.rip <= HANDLERS + len(guests.SYSCALL_ENTRY)
    frame = machine.exception()
    assert (frame.vector, frame.rip, frame.cs, frame.ss) == (UD, USER + 14, 0x33, 0x2B)


@pytest.mark.stock_kvm
def test_syscall_without_sce_is_invalid(machine, stock):
    """Without EFER.SCE SYSCALL is #UD."""
    enter_ring3(machine, guests.USER_SYSCALL)
    machine.vcpu.set_msrs({LSTAR: HANDLERS})
    frame = machine.exception()
    assert (frame.vector, frame.rip) == (UD, USER + 5)


@pytest.mark.stock_kvm
@pytest.mark.parametrize(
    ("guest", "vector", "length"),
    [(guests.INT3, BP, 1), (guests.INT_N, 0x80, 2)],
    ids=["int3", "int80"],
)
def test_software_interrupts_at_cpl_0(machine, stock, guest, vector, length):
    """INT3 and INT n are traps: the frame points behind them, IRETQ goes on there."""
    machine.long_mode(guest)
    frame = machine.exception()
    assert (frame.vector, frame.error_code, frame.rip) == (vector, 0, CODE + length)
    assert machine.run_to_hlt() == [(0xE0, b"\x66")]


@pytest.mark.stock_kvm
@pytest.mark.parametrize("step", STEPS)
def test_what_every_stock_kernel_needs(machine, stock, step):
    """Baseline x86-64 runs at CPL 0 (the steps of the probe)."""
    assert STEPS[step](machine) == ""


@pytest.mark.stock_kvm
def test_sse2_computes(machine, stock):
    """PXOR, MOVQ, PADDQ give the right sum."""
    machine.long_mode(guests.SSE2)
    assert machine.run_to_hlt() == []
    regs = machine.vcpu.get_regs()
    assert regs.rax == regs.rsp


@pytest.mark.stock_kvm
def test_lsl_and_verw(machine, stock):
    """LSL loads the limit, VERW accepts writable data."""
    machine.long_mode(guests.SEGMENT_CHECKS)
    assert machine.run_to_hlt() == []
    regs = machine.vcpu.get_regs()
    assert (regs.rax, regs.rcx & 0xFF) == (0xFFFFFFFF, 1)


def test_cmpxchg8b_and_swapgs(machine):
    """CMPXCHG8B stores when equal; two SWAPGS leave GS alone."""
    machine.long_mode(guests.SYSTEM_STATE)
    assert machine.run_to_hlt() == []
    assert machine.vcpu.get_regs().rcx & 0xFF == 1
    assert machine.word(0x6200) == 9
    assert machine.vcpu.get_sregs().gs.base == 0


def test_32_bit_paging(machine, needs):
    """Protected mode with 4 MiB pages translates."""
    needs(_lacks_32_bit_paging)
    assert _run_32_bit_paging(machine) == "ok"


def _run_32_bit_paging(machine) -> str:
    machine.protected_mode(guests.PROT32_PAGING)
    machine.put(0x9000, (0x83).to_bytes(4, "little") + (0x83).to_bytes(4, "little"))
    machine.put(0x600, (0x1234).to_bytes(4, "little"))
    sregs = machine.vcpu.get_sregs()
    sregs.cr3 = 0x9000
    machine.vcpu.set_sregs(sregs)
    exit_ = machine.run()
    if not isinstance(exit_, Hlt):
        return f"32-bit paging ends in {exit_!r}"
    return "ok" if machine.vcpu.get_regs().rbx == 0x1234 else "a wrong value"


def _lacks_32_bit_paging(hypervisor) -> str:
    with Machine(hypervisor) as machine:
        result = _run_32_bit_paging(machine)
    return "" if result == "ok" else result
