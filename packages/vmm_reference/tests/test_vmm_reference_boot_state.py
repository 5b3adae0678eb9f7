"""The exact state in which a kernel is entered, field by field, and the order of making it."""

from __future__ import annotations

import struct

import pytest

from kvm_ioctls import CpuidEntry, Dtable, Fpu, Regs, Segment, Sregs
from vm_memory import GuestMemory
from vmm_reference.arch.x86_64 import e820, layout, msrs, registers, reset_vector
from vmm_reference.vcpu import configure

GIB = 1 << 30


@pytest.fixture
def memory():
    """Two MiB of guest memory."""
    with GuestMemory.from_ranges([(0, 2 << 20)]) as made:
        yield made


def code_segment():
    return Segment(selector=0x8, limit=0xFFFF_FFFF, type=0xB, present=1, s=1, l=1, g=1)


def data_segment():
    return Segment(selector=0x10, limit=0xFFFF_FFFF, type=0x3, present=1, s=1, db=1, g=1)


def tss_segment():
    return Segment(selector=0x18, limit=0xFFFF_FFFF, type=0xB, present=1, s=0, g=1)


def test_general_registers():
    """RSI is on the zero page, the stack below it, flags clear but for the bit that is always 1."""
    expected = Regs(rip=0x100_0200, rsp=0x8FF0, rbp=0x8FF0, rsi=0x7000, rflags=2)
    assert registers.boot_regs(0x100_0200) == expected


def test_special_registers():
    """Long mode with paging over the boot tables; what reset left elsewhere stays."""
    sregs = Sregs(cr0=0x6000_0010, apic_base=0xFEE0_0900)
    registers.set_boot_sregs(sregs)
    data = data_segment()
    assert sregs == Sregs(
        cs=code_segment(),
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        tr=tss_segment(),
        gdt=Dtable(base=0x500, limit=31),
        idt=Dtable(base=0x520, limit=7),
        cr0=0x6000_0010 | 0x8000_0001,
        cr3=0x9000,
        cr4=0x20,
        efer=0x500,
        apic_base=0xFEE0_0900,
    )


def test_empty_descriptor_is_unusable():
    """The null descriptor gives a segment that must not be used."""
    assert registers.segment_from_gdt(0) == Segment(unusable=1)


def test_fpu():
    """All exceptions masked, in the x87 and in SSE."""
    assert registers.boot_fpu() == Fpu(fcw=0x37F, mxcsr=0x1F80)


def test_local_interrupt_pins(fake_vcpu):
    """LINT0 takes the 8259s' interrupts, LINT1 NMIs; masks stay as reset left them."""
    lapic = fake_vcpu.get_lapic()
    registers.set_boot_lint(lapic)
    assert lapic.get(0x350) == 0x10700
    assert lapic.get(0x360) == 0x10400


def test_descriptor_tables_in_memory(memory):
    """GDT and IDT are where GDTR and IDTR say, and agree with the cached segments."""
    registers.write_boot_tables(memory)
    assert struct.unpack("<4Q", memory.read(0x500, 32)) == (
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        0x008F_8B00_0000_FFFF,
    )
    assert memory.read(0x520, 8) == bytes(8)


def test_page_tables_in_memory(memory):
    """One GiB maps to itself in writable 2 MiB pages."""
    registers.write_boot_tables(memory)
    assert memory.load(0x9000, 8) == 0xA003
    assert memory.load(0xA000, 8) == 0xB003
    entries = struct.unpack("<512Q", memory.read(0xB000, 4096))
    assert entries == tuple(i << 21 | 0x83 for i in range(512))


def test_msrs():
    """System call MSRs and the TSC are 0; fast strings and write-back memory are on."""
    assert dict(msrs.BOOT_MSRS) == {
        0x174: 0,
        0x175: 0,
        0x176: 0,
        0xC000_0081: 0,
        0xC000_0082: 0,
        0xC000_0083: 0,
        0xC000_0084: 0,
        0xC000_0102: 0,
        0x10: 0,
        0x1A0: 1,
        0x2FF: 0x806,
    }


def test_boot_processor_is_configured_in_order(fake_vcpu, calls):
    """CPUID comes first, then MSRs, registers, FPU, system registers, interrupt pins."""
    cpuid = [CpuidEntry(function=0)]
    configure(fake_vcpu, cpuid, 0x100_0000)
    names = [name for name, *_ in calls]
    assert names == [
        "vcpu0.set_cpuid2",
        "vcpu0.set_msrs",
        "vcpu0.set_regs",
        "vcpu0.set_fpu",
        "vcpu0.set_sregs",
        "vcpu0.set_lapic",
    ]
    assert calls[0][1] is cpuid
    assert calls[2][1].rip == 0x100_0000
    assert calls[4][1].cr3 == 0x9000


def test_other_processors_stay_in_reset_state(fake_vcpu, calls):
    """A processor that waits for SIPI gets neither general nor system registers."""
    configure(fake_vcpu, [], None)
    names = {name for name, *_ in calls}
    assert names == {
        "vcpu0.set_cpuid2",
        "vcpu0.set_msrs",
        "vcpu0.set_fpu",
        "vcpu0.set_lapic",
    }


@pytest.mark.parametrize(
    ("size", "ranges"),
    [
        (512 << 20, [(0, 512 << 20)]),
        (3 * GIB, [(0, 3 * GIB)]),
        (3 * GIB + 4096, [(0, 3 * GIB), (4 * GIB, 4096)]),
        (8 * GIB, [(0, 3 * GIB), (4 * GIB, 5 * GIB)]),
    ],
)
def test_memory_leaves_the_gap(size, ranges):
    """Nothing is between 3 and 4 GiB; what does not fit below goes above."""
    assert layout.memory_ranges(size) == ranges


@pytest.mark.parametrize("size", [64 << 20, 3 * GIB, 6 * GIB])
def test_e820_lists_all_memory_once(size):
    """The map is sorted, free of overlaps, and holds all RAM but the hole below 1 MiB."""
    entries = e820.e820_map(size)
    ends = [entry.addr + entry.size for entry in entries]
    assert all(end <= entry.addr for end, entry in zip(ends, entries[1:], strict=False))
    ram = sum(entry.size for entry in entries if entry.type == 1)
    assert ram == size - (0x100000 - 0x9FC00)


def test_e820_reserves_what_is_not_memory():
    """The ACPI tables', the PCI configuration spaces', and KVM's own pages are reserved."""
    reserved = [(e.addr, e.size) for e in e820.e820_map(1 * GIB) if e.type == 2]
    assert reserved == [(0x9FC00, 0x60400), (0xFEB0_0000, 0x10_0000), (0xFFFB_C000, 0x4000)]


def test_reset_vector_resets(memory):
    """F000:FFF0 holds the keyboard controller's reset, for kernels that restart through it."""
    reset_vector.write_reset_code(memory)
    assert memory.read(0xFFFF0, 7) == bytes.fromhex("b0fe e664 f4 ebfd")


@pytest.mark.parametrize(
    ("cmdline", "mode", "told"),
    [
        ("panic=-1 reboot=panic_warm", 0x1234, True),
        ("panic=-1 reboot=panic_warm", 0, False),
        ("panic=-1", 0x1234, False),
    ],
)
def test_a_panic_is_told_by_a_warm_reset_alone(cmdline, mode, told):
    """Only a kernel that was asked to reset warm after a panic says anything by it."""
    with GuestMemory.from_ranges([(0, 0x1000)]) as memory:
        memory.store(0x472, mode, 2)
        assert reset_vector.tells_of_panic(memory, cmdline) is told
