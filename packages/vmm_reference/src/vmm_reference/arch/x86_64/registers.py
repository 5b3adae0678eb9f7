"""The state in which a 64-bit Linux kernel is entered, and the tables in memory that it refers to.

Long mode with paging on, flat segments, interrupts off, ``rsi`` on the zero page
(Documentation/arch/x86/boot.rst, "64-bit boot protocol"). The tables and selectors are
Firecracker's. Only the boot processor gets this: the others stay in their reset state until it
wakes them with INIT and SIPI.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kvm_ioctls import Dtable, Fpu, Regs, Segment
from vmm_reference.arch.x86_64 import layout

if TYPE_CHECKING:
    from kvm_ioctls import LapicState, Sregs
    from vm_memory import GuestMemory

CODE_INDEX = 1
DATA_INDEX = 2
TSS_INDEX = 3
GDT = (
    0,
    0x00AF_9B00_0000_FFFF,  # code: execute/read, accessed, 64-bit, 4 KiB units
    0x00CF_9300_0000_FFFF,  # data: read/write, accessed, 32-bit, 4 KiB units
    0x008F_8B00_0000_FFFF,  # TSS: 64-bit, busy (VMX refuses to enter with any other), 4 KiB units
)
"""Segment descriptors as they stand in memory (SDM vol. 3 §3.4.5); a selector is index times 8."""

_RFLAGS_RESERVED = 0x2  # bit 1 always reads as one
_CR0_PE = 1 << 0
_CR0_PG = 1 << 31
_CR4_PAE = 1 << 5
_EFER_LME = 1 << 8
_EFER_LMA = 1 << 10

_PTE_PRESENT = 1 << 0
_PTE_WRITABLE = 1 << 1
_PDE_LARGE = 1 << 7
_LARGE_PAGE_SHIFT = 21
_ENTRIES = 512

_FCW_DEFAULT = 0x37F
_MXCSR_DEFAULT = 0x1F80

_LVT_LINT0 = 0x350
_LVT_LINT1 = 0x360
_DELIVERY_MODE_MASK = 0x700
_DELIVERY_NMI = 0x400
_DELIVERY_EXTINT = 0x700


def segment_from_gdt(index: int) -> Segment:
    """Return what the processor caches when it loads the selector of entry `index` of `GDT`.

    The cached limit is in bytes: with the granularity bit set it is the descriptor's limit in 4
        KiB units, all low
    bits set (SDM vol. 3 §3.4.5.1). An empty descriptor gives an unusable segment.
    """
    entry = GDT[index]
    granular = entry >> 55 & 1
    limit = (entry & 0xFFFF) | (entry >> 32 & 0xF0000)
    present = entry >> 47 & 1
    return Segment(
        base=(entry >> 16 & 0xFF_FFFF) | (entry >> 32 & 0xFF00_0000),
        limit=limit << 12 | 0xFFF if granular else limit,
        selector=index * 8,
        type=entry >> 40 & 0xF,
        s=entry >> 44 & 1,
        dpl=entry >> 45 & 3,
        present=present,
        avl=entry >> 52 & 1,
        l=entry >> 53 & 1,
        db=entry >> 54 & 1,
        g=granular,
        unusable=1 - present,
    )


def write_boot_tables(memory: GuestMemory) -> None:
    """Write the GDT, an empty IDT, and page tables that map the first GiB to itself."""
    memory.write(layout.GDT_START, struct.pack(f"<{len(GDT)}Q", *GDT))
    memory.write(layout.IDT_START, bytes(8))
    table = _PTE_PRESENT | _PTE_WRITABLE
    memory.write(layout.PML4_START, struct.pack("<Q", layout.PDPT_START | table))
    memory.write(layout.PDPT_START, struct.pack("<Q", layout.PAGE_DIRECTORY_START | table))
    pages = (i << _LARGE_PAGE_SHIFT | table | _PDE_LARGE for i in range(_ENTRIES))
    memory.write(layout.PAGE_DIRECTORY_START, struct.pack(f"<{_ENTRIES}Q", *pages))


def boot_regs(entry: int) -> Regs:
    """Return the general registers for a kernel entered at physical address `entry`."""
    return Regs(
        rflags=_RFLAGS_RESERVED,
        rip=entry,
        rsp=layout.BOOT_STACK_POINTER,
        rbp=layout.BOOT_STACK_POINTER,
        rsi=layout.ZERO_PAGE_START,
    )


def set_boot_sregs(sregs: Sregs) -> None:
    """Change reset-state `sregs` to long mode over the tables of `write_boot_tables`."""
    data = segment_from_gdt(DATA_INDEX)
    sregs.cs = segment_from_gdt(CODE_INDEX)
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    sregs.tr = segment_from_gdt(TSS_INDEX)
    sregs.gdt = Dtable(base=layout.GDT_START, limit=len(GDT) * 8 - 1)
    sregs.idt = Dtable(base=layout.IDT_START, limit=8 - 1)
    sregs.cr3 = layout.PML4_START
    sregs.cr4 |= _CR4_PAE
    sregs.cr0 |= _CR0_PE | _CR0_PG
    sregs.efer |= _EFER_LME | _EFER_LMA


def boot_fpu() -> Fpu:
    """Return the FPU as ``fninit`` and a reset of MXCSR leave it."""
    return Fpu(fcw=_FCW_DEFAULT, mxcsr=_MXCSR_DEFAULT)


def set_boot_lint(lapic: LapicState) -> None:
    """Wire a local APIC's pins as a PC does: LINT0 to the 8259 pair, LINT1 to NMI."""
    _set_delivery_mode(lapic, _LVT_LINT0, _DELIVERY_EXTINT)
    _set_delivery_mode(lapic, _LVT_LINT1, _DELIVERY_NMI)


def _set_delivery_mode(lapic: LapicState, offset: int, mode: int) -> None:
    (value,) = struct.unpack_from("<I", lapic.raw, offset)
    struct.pack_into("<I", lapic.raw, offset, (value & ~_DELIVERY_MODE_MASK) | mode)
