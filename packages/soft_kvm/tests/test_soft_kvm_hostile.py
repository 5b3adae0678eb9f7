"""Whatever a guest executes ends in an exit, never in the VMM's own end."""

from __future__ import annotations

import mmap
import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvm_ioctls import Hlt, Interrupted, Regs
from soft_kvm import Kvm


def _run_bounded(vcpu, exits: int = 200) -> None:
    """Runs until HLT, a kick or many exits, answering every read with what is there."""
    timer = threading.Timer(0.2, vcpu.kick)
    timer.start()
    try:
        for _ in range(exits):
            if isinstance(vcpu.run(), (Hlt, Interrupted)):
                return
    finally:
        timer.cancel()
        timer.join()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    code=st.binary(min_size=1, max_size=64),
    rax=st.integers(0, 2**64 - 1),
    rcx=st.integers(0, 2**64 - 1),
)
def test_random_code_in_long_mode(long_mode, code, rax, rcx):
    """Random bytes at privilege level 0, with tables, stack and MSRs in their reach."""
    long_mode.put(0x10000, code + b"\xf4" * 16)
    long_mode._tables()
    sregs = long_mode.vcpu.get_sregs()
    sregs.cs.l, sregs.cs.db, sregs.cs.base = 1, 0, 0
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80050033, 0x9000, 0x620, 0xD00
    sregs.tr.type, sregs.tr.present, sregs.tr.s = 11, 1, 0
    long_mode.vcpu.set_sregs(sregs)
    long_mode.vcpu.set_regs(
        Regs(rip=0x10000, rsp=0x8000, rflags=2, rax=rax, rcx=rcx, rdi=0x7000, rsi=0xFEE00000)
    )
    _run_bounded(long_mode.vcpu)


@settings(max_examples=60, deadline=None)
@given(code=st.binary(min_size=1, max_size=128))
def test_random_code_in_real_mode(code):
    """The reset state over random memory."""
    memory = mmap.mmap(-1, 0x100000)
    with Kvm().create_vm() as vm:
        vm.set_user_memory_region(0, 0, memory)
        with vm.create_vcpu(0) as vcpu:
            memory[0x1000 : 0x1000 + len(code)] = code
            sregs = vcpu.get_sregs()
            sregs.cs.base = sregs.cs.selector = 0
            vcpu.set_sregs(sregs)
            vcpu.set_regs(Regs(rip=0x1000, rsp=0x8000, rflags=2))
            _run_bounded(vcpu)
    memory.close()


def test_the_private_pages_protect_nobody_but_the_guest(long_mode):
    """A guest that overwrites the engine's intercept block gets no further than its own MSRs."""
    private = (1 << 40) - 0x5000
    for page in range(5):
        long_mode.map_page(0x100000 + page * 4096, private + page * 4096, 3)
    # rep stosq over 16 KiB and more with ones, then an unknown RDMSR, a CR8 write and a halt
    long_mode.put(
        0x10000,
        bytes.fromhex(
            "bf00001000 b9000a0000 48c7c0ffffffff f348ab b978563412 0f32 31c0 440f22c0 f4"
        ),
    )
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2))
    _run_bounded(long_mode.vcpu)
    long_mode.vcpu.get_msrs([0xC0000080, 0xC0000102])
