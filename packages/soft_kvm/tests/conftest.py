"""Small machines for soft_kvm's own tests; what KVM does too is tested in tests/conformance."""

from __future__ import annotations

import mmap
import struct

import pytest

from kvm_ioctls import Dtable, Hlt, Regs, Segment
from soft_kvm import Kvm

PML4, PDPT, PD, PT, GDT = 0x9000, 0xA000, 0xB000, 0xC000, 0x500


class LongMode:
    """One vCPU in 64-bit mode; identity: 4 KiB pages below 2 MiB, larger ones up to 1 GiB."""

    def __init__(self, size: int = 0x800000) -> None:
        self.memory = mmap.mmap(-1, size)
        self.vm = Kvm().create_vm()
        self.vm.set_user_memory_region(0, 0, self.memory)
        self.vcpu = self.vm.create_vcpu(0)
        self._tables()
        sregs = self.vcpu.get_sregs()
        sregs.cs = Segment(limit=0xFFFFFFFF, selector=8, type=11, present=1, s=1, l=1, g=1)
        data = Segment(limit=0xFFFFFFFF, selector=16, type=3, present=1, s=1, db=1, g=1)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        sregs.gdt = Dtable(base=GDT, limit=23)
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80050033, PML4, 0x620, 0xD00
        self.vcpu.set_sregs(sregs)

    def _tables(self) -> None:
        self.put(PML4, struct.pack("<Q", PDPT | 3))
        self.put(PDPT, struct.pack("<Q", PD | 3))
        self.put(PD, struct.pack("<512Q", PT | 3, *(n << 21 | 0x83 for n in range(1, 512))))
        self.put(PT, struct.pack("<512Q", *(n << 12 | 3 for n in range(512))))
        self.put(GDT, struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))

    def put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def map_page(self, linear: int, physical: int, flags: int) -> None:
        """Changes one of the 4 KiB pages."""
        self.put(PT + linear // 4096 * 8, struct.pack("<Q", physical | flags))

    def run_to_hlt(self, rip: int, **regs: int) -> Regs:
        self.vcpu.set_regs(Regs(rip=rip, rsp=0x8000, rflags=2, **regs))
        exit_ = self.vcpu.run()
        assert isinstance(exit_, Hlt), f"{exit_!r} {self.vcpu.error} {self.vcpu.get_regs()!r}"
        return self.vcpu.get_regs()

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()
        self.memory.close()


@pytest.fixture
def long_mode():
    machine = LongMode()
    yield machine
    machine.close()
