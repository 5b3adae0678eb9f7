"""Long mode: the way there, paging, exceptions, CPUID and model-specific registers."""

from __future__ import annotations

import guests
import pytest
from machine import CODE, NO_PAGE, PML4, READ_ONLY_PAGE, STACK, STUBS, Machine

from kvm_ioctls import CpuidEntry, Dtable, Hlt, MmioRead, MmioWrite, MsrError, Shutdown

DE, DB, UD, GP, PF = 0, 1, 6, 13, 14
STAR, LSTAR, CSTAR, SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
KERNEL_GS_BASE = 0xC000_0102
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT = 0x174, 0x175, 0x176, 0x277


def test_a_guest_switches_from_real_to_long_mode_by_itself(machine):
    """LGDT, CR0.PE, a far jump, PAE, EFER.LME, CR0.PG and another far jump lead to 64-bit code."""
    machine.long_mode(guests.REAL_TO_LONG)  # for its tables
    machine.put(0x700, b"\x4f\x00" + (0xE000).to_bytes(4, "little"))
    with_real_mode = machine.vcpu.get_sregs()
    with_real_mode.cr0, with_real_mode.cr4, with_real_mode.efer = 0x10, 0, 0
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        segment = getattr(with_real_mode, name)
        segment.base = segment.selector = segment.l = segment.db = segment.g = 0
        segment.limit = 0xFFFF
        segment.type = 11 if name == "cs" else 3
    machine.vcpu.set_sregs(with_real_mode)
    assert machine.run_to_hlt() == [(0xE0, b"\x44\x33\x22\x11")]
    sregs = machine.vcpu.get_sregs()
    assert sregs.efer & 0x500 == 0x500
    assert sregs.cs.l == 1
    assert sregs.cr3 == PML4


def test_64_bit_registers_and_stack(machine):
    """Immediates, pushes and rotations use all 64 bits."""
    machine.long_mode(guests.LONG_ARITHMETIC)
    assert machine.run_to_hlt() == []
    regs = machine.vcpu.get_regs()
    assert regs.rbx == 0x2468ACF13579BDE0
    assert regs.r15 == 0x468ACF13579BDE02
    assert regs.rsp == STACK


def test_protected_mode_without_paging(machine):
    """Flat 32-bit code runs, and OUT of EAX gives four bytes."""
    machine.protected_mode(guests.PROT32)
    assert machine.run_to_hlt() == [(0xE0, b"\xf0\xac\x68\x24")]


def test_mmio_of_eight_bytes(machine, soft_kvm_differs):
    """A 64-bit access is one exit of 8 bytes, and a 32-bit load clears the upper half."""
    soft_kvm_differs("a 64-bit MMIO access arrives as two of 32 bits")
    machine.long_mode(guests.MMIO_LONG)
    seen = []
    while not isinstance(exit_ := machine.run(), Hlt):
        match exit_:
            case MmioWrite(address, data):
                seen.append((address, bytes(data)))
            case MmioRead(address, data):
                seen.append((address, len(data)))
                data[:] = bytes(range(1, 1 + len(data)))
    assert seen == [(0x200000, bytes.fromhex("1122334455667788")), (0x200008, 8), (0x200010, 4)]
    regs = machine.vcpu.get_regs()
    assert (regs.rbx, regs.rcx) == (0x0807060504030201, 0x04030201)


def test_invalid_opcode_and_iretq(machine):
    """#UD saves the instruction's own address; IRETQ goes where the frame says."""
    machine.long_mode(guests.UD2)
    frame = machine.exception()
    assert (frame.vector, frame.error_code) == (UD, 0)
    assert (frame.rip, frame.cs, frame.ss, frame.rsp) == (CODE, 0x10, 0x18, STACK)
    at = machine.word(0x6000) + 16
    machine.put(at, (CODE + 2).to_bytes(8, "little"))
    assert machine.run_to_hlt() == [(0xE0, b"\x55")]
    assert machine.vcpu.get_regs().rsp == STACK


def test_divide_error(machine):
    """#DE has no error code and points at the DIV."""
    machine.long_mode(guests.DIVIDE_ERROR)
    frame = machine.exception()
    assert (frame.vector, frame.error_code, frame.rip) == (DE, 0, CODE + 9)


def test_the_stack_is_aligned_before_an_exception_pushes(machine):
    """In 64-bit mode the frame begins at a multiple of 16 (SDM vol. 3 §6.14.2)."""
    machine.long_mode(guests.UD2, rsp=STACK - 3)
    frame = machine.exception()
    assert frame.rsp == STACK - 3
    assert machine.word(0x6000) == STACK - 16 - 40 - 16


@pytest.mark.parametrize(
    ("guest", "address", "error_code"),
    [
        (guests.LOAD_RBX, NO_PAGE + 0x123, 0),
        (guests.STORE_RBX, NO_PAGE + 0x456, 2),
        (guests.STORE_RBX, READ_ONLY_PAGE + 0x6100, 3),
    ],
)
def test_page_faults_tell_why_and_where(machine, guest, address, error_code):
    """#PF: bit 0 a page was there, bit 1 a write; CR2 is the address."""
    machine.long_mode(guest, rbx=address)
    frame = machine.exception()
    assert (frame.vector, frame.error_code, frame.rip) == (PF, error_code, CODE)
    assert machine.vcpu.get_sregs().cr2 == address


def test_fetching_where_no_page_is(machine):
    """A jump into nothing faults at its target; without NX the error code does not say fetch."""
    machine.long_mode(guests.JUMP_RBX, rbx=NO_PAGE)
    frame = machine.exception()
    assert (frame.vector, frame.error_code & ~0x10, frame.rip) == (PF, 0, NO_PAGE)
    assert machine.vcpu.get_sregs().cr2 == NO_PAGE


@pytest.mark.parametrize(
    ("guest", "rbx", "error_code"),
    [(guests.LOAD_RBX, 1 << 60, 0), (guests.LOAD_DS, 0x78, 0x78)],
)
def test_general_protection(machine, guest, rbx, error_code):
    """#GP: a non-canonical address gives 0, a selector beyond the GDT gives itself."""
    machine.long_mode(guest, rbx=rbx)
    frame = machine.exception()
    assert (frame.vector, frame.error_code, frame.rip) == (GP, error_code, CODE)


def test_single_step_trap(machine):
    """RFLAGS.TF gives #DB behind the next instruction."""
    machine.long_mode(guests.SINGLE_STEP)
    frame = machine.exception()
    assert (frame.vector, frame.error_code) == (DB, 0)
    assert frame.rip == CODE + 11
    assert frame.rflags & 0x100


def test_a_fault_that_cannot_be_delivered_shuts_down(machine):
    """With an empty IDT #UD becomes a triple fault."""
    machine.long_mode(guests.TRIPLE_FAULT)
    machine.put(0x700, bytes(10))
    assert isinstance(machine.run(), Shutdown)


def test_an_empty_idt_from_outside_shuts_down_too(machine):
    """The same, with the limit set by KVM_SET_SREGS."""
    machine.long_mode(guests.UD2)
    sregs = machine.vcpu.get_sregs()
    sregs.idt = Dtable(base=0, limit=0)
    machine.vcpu.set_sregs(sregs)
    assert isinstance(machine.run(), Shutdown)


def test_an_exception_stub_per_vector(machine):
    """The suite's own stubs fit their places (a test of the tests)."""
    machine.long_mode(guests.UD2)
    assert all(
        machine.memory[STUBS + 16 * vector : STUBS + 16 * vector + 1] in (b"\x6a", b"\x68")
        for vector in range(256)
    )


# ------------------------------------------------------------------------------- CPUID and MSRs


def _set_cpuid(machine) -> None:
    entries = [e for e in machine.vcpu.get_cpuid2() if e.function not in {0, 0x40000000}]
    entries += [
        CpuidEntry(function=0, eax=0x16, ebx=0x11111111, ecx=0x22222222, edx=0x33333333),
        CpuidEntry(function=0x40000000, eax=0x40000001, ebx=0x64636261, ecx=5, edx=6),
    ]
    machine.vcpu.set_cpuid2(entries)


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (0, (0x16, 0x11111111, 0x22222222, 0x33333333)),
        (0x40000000, (0x40000001, 0x64636261, 5, 6)),
    ],
)
def test_cpuid_answers_what_was_set(machine, leaf, expected):
    """The guest sees the leaves that KVM_SET_CPUID2 gave it."""
    machine.long_mode(guests.CPUID, rax=leaf)
    _set_cpuid(machine)
    assert machine.run_to_hlt() == []
    regs = machine.vcpu.get_regs()
    assert (regs.rax, regs.rbx, regs.rcx, regs.rdx) == expected


def test_cpuid_hides_what_was_not_set(machine, needs):
    """Feature bits that were not given are not there."""
    needs(_shows_host_features)
    assert _leaf_1_ecx(machine) & ~(1 << 31) == 0


def _leaf_1_ecx(machine) -> int:
    machine.long_mode(guests.CPUID, rax=1)
    machine.vcpu.set_cpuid2([CpuidEntry(function=1, eax=0x600, ebx=0, ecx=0, edx=0x2000)])
    assert machine.run_to_hlt() == []
    return machine.vcpu.get_regs().rcx


def _shows_host_features(hypervisor) -> str:
    with Machine(hypervisor) as machine:
        seen = _leaf_1_ecx(machine) & ~(1 << 31)
    return f"CPUID 1 ECX shows {seen:#x} though 0 was set" if seen else ""


def test_cpuid_is_read_back(machine):
    """KVM_GET_CPUID2 returns the entries of KVM_SET_CPUID2."""
    _set_cpuid(machine)
    entries = {e.function: e for e in machine.vcpu.get_cpuid2()}
    assert entries[0x40000000].ebx == 0x64636261
    assert entries[0].edx == 0x33333333


@pytest.mark.parametrize(
    "values",
    [
        {LSTAR: 0xFFFF_FFFF_8100_0000, STAR: 0x0023_0010 << 32, CSTAR: 0x1000, SFMASK: 0x47700},
        {KERNEL_GS_BASE: 0xFFFF_8880_0000_0000},
        {SYSENTER_CS: 0x10, SYSENTER_ESP: 0x7000, SYSENTER_EIP: 0x8000},
        {PAT: 0x0007_0406_0007_0406},
    ],
    ids=["syscall", "gs", "sysenter", "pat"],
)
def test_msrs_are_read_back(machine, values):
    """What KVM_SET_MSRS stores, KVM_GET_MSRS returns."""
    machine.vcpu.set_msrs(values)
    assert machine.vcpu.get_msrs(values) == values


def test_a_refused_msr_is_named(machine):
    """The registers before the refused one are set, those behind it are not."""
    with pytest.raises(MsrError) as caught:
        machine.vcpu.set_msrs({LSTAR: 0x1000, 0x1234_5678: 1, CSTAR: 0x2000})
    assert caught.value.index == 0x1234_5678
    assert machine.vcpu.get_msrs([LSTAR, CSTAR]) == {LSTAR: 0x1000, CSTAR: 0}
    with pytest.raises(MsrError) as caught:
        machine.vcpu.get_msrs([LSTAR, 0x1234_5678])
    assert caught.value.index == 0x1234_5678


def test_every_listed_msr_can_be_read(hypervisor, machine):
    """KVM_GET_MSR_INDEX_LIST names registers that KVM_GET_MSRS knows."""
    indices = hypervisor.get_msr_index_list()
    assert {STAR, LSTAR, SFMASK, KERNEL_GS_BASE, 0x10} <= set(indices)
    assert set(machine.vcpu.get_msrs(indices)) == set(indices)


def test_the_guest_sees_msrs_from_outside(machine):
    """RDMSR answers with what KVM_SET_MSRS stored."""
    machine.long_mode(guests.RDMSR, rcx=LSTAR)
    machine.vcpu.set_msrs({LSTAR: 0xFFFF_8000_1234_5678})
    assert machine.run_to_hlt() == []
    regs = machine.vcpu.get_regs()
    assert (regs.rdx, regs.rax) == (0xFFFF_8000, 0x1234_5678)


def test_msrs_that_the_guest_writes_are_seen_outside(machine):
    """KVM_GET_MSRS returns what WRMSR stored."""
    machine.long_mode(guests.WRMSR, rcx=KERNEL_GS_BASE, rdx=0xFFFF_8000, rax=0x55)
    assert machine.run_to_hlt() == []
    assert machine.vcpu.get_msrs([KERNEL_GS_BASE]) == {KERNEL_GS_BASE: 0xFFFF_8000_0000_0055}


@pytest.mark.parametrize("guest", [guests.RDMSR, guests.WRMSR], ids=["rdmsr", "wrmsr"])
def test_an_msr_that_is_not_there_gives_gp(machine, guest):
    """RDMSR and WRMSR of an unknown register: #GP(0) at the instruction."""
    machine.long_mode(guest, rcx=0x1234_5678)
    frame = machine.exception()
    assert (frame.vector, frame.error_code, frame.rip) == (GP, 0, CODE)


def test_a_non_canonical_lstar_gives_gp(machine, needs):
    """WRMSR of a non-canonical address to LSTAR: #GP(0)."""
    needs(_takes_any_lstar)
    _write_non_canonical_lstar(machine)
    assert machine.exception().vector == GP


def _write_non_canonical_lstar(machine) -> None:
    machine.long_mode(guests.WRMSR, rcx=LSTAR, rdx=0x1000_0000, rax=0)


def _takes_any_lstar(hypervisor) -> str:
    """KVM leaves this register to the processor, and not every processor checks."""
    with Machine(hypervisor) as machine:
        _write_non_canonical_lstar(machine)
        machine.run()
        taken = machine.vcpu.get_regs().rip == CODE + len(guests.WRMSR)
    return "WRMSR takes a non-canonical LSTAR" if taken else ""
