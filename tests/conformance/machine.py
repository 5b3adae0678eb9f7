"""A virtual machine for the conformance suite: memory, one vCPU, the two modes guests run in.

Built on the protocols only: the suite does not know whose hypervisor it drives.

Memory below 64 KiB::

    0x1000  the guest        0x5000  RSP0 of the TSS     0xc000  page directory for 3-4 GiB
    0x2000  exception stubs  0x6000  scratch             0xd000  IDT
    0x3000  their handler    0x7000  stack, downwards    0xe000  GDT, TSS at 0xe100
    0x4000  more handlers    0x9000  PML4, PDPT, PD      0xf000  page directory for 1-2 GiB
"""

from __future__ import annotations

import struct
import threading
from mmap import mmap
from typing import TYPE_CHECKING, NamedTuple, Self

import guests

from kvm_ioctls import (
    Dtable,
    Hlt,
    Interrupted,
    IoOut,
    IrqRoutingEntry,
    Regs,
    Segment,
)

if TYPE_CHECKING:
    from kvm_ioctls import Exit, Hypervisor, Vcpu, Vm

CODE = 0x1000
STUBS = 0x2000
HANDLER = 0x3000
HANDLERS = 0x4000
RSP0 = 0x5000
REPORT = 0x6000
STACK = 0x7000
PML4, PDPT, PD0, PD3, PD1 = 0x9000, 0xA000, 0xB000, 0xC000, 0xF000
IDT = 0xD000
GDT = 0xE000
TSS = 0xE100

SUPERVISOR_PAGE = 0x4000_0000  # guest physical 0 again, not for ring 3
READ_ONLY_PAGE = 0x4020_0000  # guest physical 0 again, not for writing
NO_PAGE = 0x8000_0000  # no translation

WITH_ERROR_CODE = {8, 10, 11, 12, 13, 14, 17, 21, 29, 30}
SECONDS = 10  # what a guest may take; on a quiet machine they take milliseconds


class Frame(NamedTuple):
    """What an exception left on the stack of `guests.REPORT_AND_RETURN`."""

    vector: int
    error_code: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int


class Machine:
    """A virtual machine with `size` bytes of memory at 0 and one vCPU; a context manager."""

    def __init__(
        self, hypervisor: Hypervisor, size: int = 0x40000, *, irqchip: bool = False
    ) -> None:
        self.memory = mmap(-1, size)
        self.vm: Vm = hypervisor.create_vm()
        self.vm.set_tss_address(0xFFFB_D000)
        if irqchip:
            self.vm.create_irq_chip()
        self.vm.set_user_memory_region(0, 0, self.memory)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid2(hypervisor.get_supported_cpuid())
        self._expired = False
        self._watchdog = threading.Timer(SECONDS, self._expire)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _expire(self) -> None:
        self._expired = True
        self.vcpu.kick()

    def close(self) -> None:
        self._watchdog.cancel()
        self._watchdog.join()
        self.vcpu.close()
        self.vm.close()
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------ running

    def run(self) -> Exit:
        """Runs until the next exit; a guest that takes too long fails the test."""
        exit_ = self.vcpu.run()
        if self._expired:
            raise AssertionError(f"the guest did not stop within {SECONDS} s: {self.where()}")
        return exit_

    def run_to_hlt(self) -> list[tuple[int, bytes]]:
        """Runs to HLT; the OUTs on the way as (port, bytes)."""
        outs = []
        while True:
            match self.run():
                case IoOut(port, data=data):
                    outs.append((port, bytes(data)))
                case Hlt():
                    return outs
                case Interrupted():
                    pass
                case other:
                    raise AssertionError(f"{other!r} at {self.where()}")

    def next_out(self) -> tuple[int, int]:
        """Runs to the next OUT: its port and value."""
        match self.run():
            case IoOut(port, data=data):
                return port, int.from_bytes(data, "little")
            case other:
                raise AssertionError(f"{other!r} at {self.where()}")

    def where(self) -> str:
        return f"{self.vcpu.get_regs()!r}"

    # -------------------------------------------------------------------------------- modes

    def real_mode(self, guest: bytes, **regs: int) -> None:
        """Puts `guest` at 0x1000 and the vCPU there in real mode with all segments at 0."""
        self.put(CODE, guest)
        sregs = self.vcpu.get_sregs()
        for segment in (sregs.cs, sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs):
            segment.base = segment.selector = 0
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_regs(Regs(**{"rip": CODE, "rflags": 2, "rsp": STACK} | regs))

    def real_mode_segment(self, name: str, base: int) -> None:
        sregs = self.vcpu.get_sregs()
        segment = getattr(sregs, name)
        segment.base, segment.selector = base, base >> 4
        self.vcpu.set_sregs(sregs)

    def real_mode_handler(self, vector: int, at: int, handler: bytes) -> None:
        self.put(at, handler)
        self.put(4 * vector, struct.pack("<HH", at, 0))

    def protected_mode(self, guest: bytes, **regs: int) -> None:
        """32-bit protected mode without paging, flat segments."""
        self.put(CODE, guest)
        self.put_descriptors()
        sregs = self.vcpu.get_sregs()
        sregs.cs = _segment(0x08, type_=11, db=1)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = _segment(0x18, type_=3, db=1)
        sregs.gdt = Dtable(base=GDT, limit=0x4F)
        sregs.cr0 = 0x11
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_regs(Regs(**{"rip": CODE, "rflags": 2, "rsp": STACK} | regs))

    def long_mode(self, guest: bytes, **regs: int) -> None:
        """64-bit mode at CPL 0: identity map of the first and the fourth GiB in 2 MiB pages.

        Exceptions lead to `guests.REPORT_AND_RETURN`, see `exception()`.
        """
        self.put(CODE, guest)
        self.put_page_tables()
        self.put_descriptors()
        self.put_exception_stubs()
        self.vcpu.set_sregs(self.long_mode_sregs())
        self.vcpu.set_regs(Regs(**{"rip": CODE, "rflags": 2, "rsp": STACK} | regs))

    def long_mode_sregs(self):
        sregs = self.vcpu.get_sregs()
        sregs.cs = _segment(0x10, type_=11, l=1)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = _segment(0x18, type_=3, db=1)
        sregs.tr = Segment(base=TSS, limit=0x67, selector=0x40, type=11, present=1)
        sregs.ldt = Segment(unusable=1)
        sregs.gdt = Dtable(base=GDT, limit=0x4F)
        sregs.idt = Dtable(base=IDT, limit=0xFFF)
        sregs.cr3 = PML4
        sregs.cr4 = 0x620  # PAE, OSFXSR, OSXMMEXCPT
        sregs.cr0 = 0x8005_0033  # PE, MP, ET, NE, WP, AM, PG
        sregs.efer = 0x500  # LME, LMA
        return sregs

    def exception(self) -> Frame:
        """Runs to the HLT of the exception handler: what it found."""
        exit_ = self.run()
        assert isinstance(exit_, Hlt), f"{exit_!r} at {self.where()}"
        assert HANDLER <= self.vcpu.get_regs().rip < HANDLERS, f"no exception: {self.where()}"
        rsp = self.word(REPORT)
        return Frame(*(self.word(rsp + 8 * n) for n in range(7)))

    def handler(self, vector: int, handler: bytes, at: int = HANDLERS) -> None:
        """Leads `vector` straight to `handler` in long mode."""
        self.put(at, handler)
        self.put(IDT + 16 * vector, _gate(at, dpl=0))

    def route_gsi_to_msi(self, gsi: int, vector: int) -> None:
        self.vm.set_gsi_routing([IrqRoutingEntry.to_msi(gsi, 0xFEE0_0000, vector)])

    # ------------------------------------------------------------------------------- memory

    def put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def word(self, address: int) -> int:
        return int.from_bytes(self.memory[address : address + 8], "little")

    def put_page_tables(self) -> None:
        user, present = 0x4, 0x1
        table = 0x3 | user
        for at, entries in {
            PML4: [PDPT | table],
            PDPT: [PD0 | table, PD1 | table, 0, PD3 | table],
            # 0x80: a 2 MiB page
            PD0: [n << 21 | 0x83 | user for n in range(512)],
            PD1: [0x83, 0x80 | present | user],
            PD3: [(0xC000_0000 + (n << 21)) | 0x83 for n in range(512)],
        }.items():
            self.put(at, struct.pack(f"<{len(entries)}Q", *entries))

    def put_descriptors(self) -> None:
        descriptors = [
            0,
            0x00CF_9B00_0000_FFFF,  # 0x08 code, 32 bits
            0x00AF_9B00_0000_FFFF,  # 0x10 code, 64 bits
            0x00CF_9300_0000_FFFF,  # 0x18 data
            0x00CF_FB00_0000_FFFF,  # 0x20 user code, 32 bits
            0x00CF_F300_0000_FFFF,  # 0x28 user data
            0x00AF_FB00_0000_FFFF,  # 0x30 user code, 64 bits
            0,
            0x0000_8B00_0000_0067 | TSS << 16,  # 0x40 TSS
            0,
        ]
        self.put(GDT, struct.pack("<10Q", *descriptors))
        self.put(TSS + 4, struct.pack("<Q", RSP0))

    def put_exception_stubs(self) -> None:
        """A stub per vector that pushes 0 where the processor pushes no error code, and itself."""
        self.put(HANDLER, guests.REPORT_AND_RETURN)
        for vector in range(256):
            at = STUBS + 16 * vector
            stub = b"" if vector in WITH_ERROR_CODE else b"\x6a\x00"  # push 0
            stub += b"\x68" + struct.pack("<I", vector)  # push vector
            stub += b"\xe9" + struct.pack("<i", HANDLER - (at + len(stub) + 5))  # jmp
            self.put(at, stub)
            self.put(IDT + 16 * vector, _gate(at, dpl=3 if vector in {3, 0x80} else 0))


def _segment(selector: int, type_: int, **bits: int) -> Segment:
    return Segment(limit=0xFFFF_FFFF, selector=selector, type=type_, present=1, s=1, g=1, **bits)


def _gate(address: int, dpl: int) -> bytes:
    """A 64-bit interrupt gate (SDM vol. 3 §6.14.1)."""
    low, middle = address & 0xFFFF, address >> 16 & 0xFFFF
    return struct.pack("<HHBBHII", low, 0x10, 0, 0x8E | dpl << 5, middle, address >> 32, 0)
