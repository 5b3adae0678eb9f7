"""Wrong behaviour that a review found; each test keeps one away."""

from __future__ import annotations

import mmap
import struct
import threading

import pytest

from kvm_ioctls import Dtable, Hlt, Interrupted, IoOut, MmioWrite, Regs, Segment

HANDLER, IDT, TSS = 0x30000, 0x31000, 0x32000


def _idt(machine, target: int = HANDLER) -> None:
    """Every vector leads to `target`, on the stack at 0x40000."""
    gate = struct.pack("<HHBBHII", target & 0xFFFF, 8, 1, 0x8E, target >> 16 & 0xFFFF, 0, 0)
    machine.put(IDT, gate * 256)
    machine.put(TSS + 36, struct.pack("<Q", 0x40000))
    machine.put(TSS + 0x66, struct.pack("<H", 0x68))  # the I/O bitmap: beyond the limit
    sregs = machine.vcpu.get_sregs()
    sregs.idt = Dtable(base=IDT, limit=0xFFF)
    sregs.tr = Segment(base=TSS, limit=0x67, selector=0x40, type=11, present=1)
    machine.vcpu.set_sregs(sregs)


def _ring3(machine) -> None:
    for table in (0x9000, 0xA000, 0xB000, *range(0xC000, 0xD000, 8)):
        machine.memory[table] |= 4  # user
    sregs = machine.vcpu.get_sregs()
    sregs.cs.selector, sregs.cs.dpl = 0x0B, 3
    sregs.ss.selector, sregs.ss.dpl = 0x13, 3
    machine.vcpu.set_sregs(sregs)


@pytest.mark.parametrize("code", ["e480", "e680", "ec", "ee", "6c", "6e"])
def test_ports_are_not_for_every_program(long_mode, code):
    """At privilege level 3 without IOPL or a bitmap, I/O raises #GP and does nothing else."""
    _idt(long_mode)
    long_mode.put(HANDLER, b"\xf4")
    _ring3(long_mode)
    long_mode.put(0x10000, bytes.fromhex(code) + bytes.fromhex("c6046501600000 01 f4"))
    long_mode.vcpu.set_regs(
        Regs(rip=0x10000, rsp=0x8000, rflags=2, rdx=0x80, rsi=0x7000, rdi=0x7000)
    )
    assert isinstance(long_mode.vcpu.run(), Hlt)
    assert long_mode.vcpu.get_regs().rip == HANDLER + 1


def test_the_bitmap_of_the_tss_opens_ports(long_mode):
    """What the kernel permits with ioperm() is permitted."""
    _idt(long_mode)
    long_mode.put(HANDLER, b"\xf4")
    _ring3(long_mode)
    sregs = long_mode.vcpu.get_sregs()
    sregs.tr.limit = 0x68 + 0x20
    long_mode.vcpu.set_sregs(sregs)
    long_mode.put(TSS + 0x66, struct.pack("<H", 0x68) + bytes(0x20))
    long_mode.put(0x10000, bytes.fromhex("e680f4"))
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2))
    assert isinstance(long_mode.vcpu.run(), IoOut)


def test_a_handler_that_cannot_be_fetched_does_not_hang_the_host(long_mode):
    """Fault after fault without a block in between: a kick still ends run()."""
    _idt(long_mode, target=0x40000000)
    long_mode.put(0x10000, bytes.fromhex("0f0b"))
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2))
    timer = threading.Timer(0.2, long_mode.vcpu.kick)
    timer.start()
    assert isinstance(long_mode.vcpu.run(), Interrupted)
    timer.join()


def test_code_is_invalidated_under_an_exit_without_harm(long_mode):
    """A loop with two exits counts right although its code is dropped at each."""
    long_mode.put(0x10000, bytes.fromhex("e680 eb02 9090 e680 ffc9 75f4 f4"))
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2, rcx=10))
    exits = 0
    while isinstance(long_mode.vcpu.run(), IoOut):
        exits += 1
        assert exits <= 20
        long_mode.vm.invalidate(0x10000, 1)
    assert exits == 20


def test_a_slot_appears_under_an_exit(long_mode):
    """It is memory from the next block on, wherever it lies."""
    extra = mmap.mmap(-1, 0x1000)
    long_mode.put(0x10000, bytes.fromhex("8803 eb00 8803 f4"))  # mov [rbx], al; jmp; mov [rbx], al
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2, rax=0x42, rbx=0x10000000))
    assert isinstance(long_mode.vcpu.run(), MmioWrite)
    long_mode.vm.set_user_memory_region(3, 0x10000000, extra)
    assert isinstance(long_mode.vcpu.run(), Hlt)
    assert extra[0] == 0x42
    long_mode.vm.set_user_memory_region(3, 0x10000000, None)
    extra.close()


def test_a_slot_disappears_under_an_exit(long_mode):
    """Its memory is kept until the instruction has ended, and free after the next run()."""
    extra = mmap.mmap(-1, 0x1000)
    long_mode.vm.set_user_memory_region(3, 0x10000000, extra)
    long_mode.put(0x10000, bytes.fromhex("e680 eb00 8803 f4"))  # out; jmp; mov [rbx], al
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2, rbx=0x10000000))
    assert isinstance(long_mode.vcpu.run(), IoOut)
    long_mode.vm.set_user_memory_region(3, 0x10000000, None)
    with pytest.raises(BufferError):
        extra.close()
    assert isinstance(long_mode.vcpu.run(), MmioWrite)
    extra.close()


def test_a_store_across_pages_is_logged_on_both(long_mode):
    """Two pages that are no neighbours in physical memory: more may be reported, never less."""
    log = mmap.mmap(-1, 0x40000)
    long_mode.vm.set_user_memory_region(4, 0x1000000, log, 1)
    long_mode.map_page(0x100000, 0x1000000 + 63 * 4096, 3)
    long_mode.map_page(0x101000, 0x1000000 + 5 * 4096, 3)
    long_mode.put(0x10000, bytes.fromhex("488903 f4"))  # mov [rbx], rax
    long_mode.run_to_hlt(0x10000, rbx=0x100FFC, rax=2**64 - 1)
    pages = int.from_bytes(long_mode.vm.get_dirty_log(4), "little")
    assert pages >> 63 & 1
    assert pages >> 5 & 1
    long_mode.vm.set_user_memory_region(4, 0x1000000, None)
    log.close()


def test_sysenter_is_not_passed_over(long_mode):
    """CPUID does not offer it, so it is an invalid opcode."""
    _idt(long_mode)
    long_mode.put(HANDLER, b"\xf4")
    long_mode.put(0x10000, bytes.fromhex("0f34 f4"))
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2))
    assert isinstance(long_mode.vcpu.run(), Hlt)
    assert long_mode.vcpu.get_regs().rip == HANDLER + 1
