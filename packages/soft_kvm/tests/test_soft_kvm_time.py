"""The time stamp counter and the register that moves it."""

from __future__ import annotations

ADJUST = 0x3B


def test_writing_tsc_adjust_moves_the_counter(long_mode):
    """RDTSC jumps by what was added, and the register reads back."""
    before = long_mode.vcpu.get_msrs([0x10])[0x10]
    long_mode.put(0x10000, bytes.fromhex("0f30 0f31 f4"))  # wrmsr; rdtsc; hlt
    regs = long_mode.run_to_hlt(0x10000, rcx=ADJUST, rax=0, rdx=1 << 8)
    assert (regs.rdx << 32 | regs.rax) - before >= 1 << 40
    assert long_mode.vcpu.get_msrs([ADJUST])[ADJUST] == 1 << 40
