"""One rule for arguments: the wrong type is a TypeError, a value out of range a ValueError."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_ioctls import (
    Cap,
    CpuidEntry,
    Fpu,
    IrqRoutingEntry,
    LapicState,
    LogZone,
    Mmio,
    MsrEntry,
    MsrFilterRange,
    Pio,
    RegisterZone,
    Regs,
    RunPage,
    Sregs,
    SyncRegs,
    Xcrs,
    Zone,
    msr_register,
    reg_size,
)
from kvm_ioctls._arguments import unsigned, within, word

pytestmark = pytest.mark.timeout(60)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(-(2**66), 2**66))
def test_numbers_are_taken_exactly_or_not_at_all(bits, value):
    """An unsigned number is 0 to 2^bits - 1; a word may be given as a negative number, too."""
    outcome = {}
    for taken in unsigned, word:
        try:
            outcome[taken] = taken("n", value, bits)
        except ValueError as error:
            assert str(error).endswith(f", not {value:#x}")  # noqa: PT017
            outcome[taken] = None
    fits = 0 <= value < 2**bits
    assert outcome[unsigned] == (value if fits else None)
    negative = -(2 ** (bits - 1)) <= value < 0
    assert outcome[word] == (value % 2**bits if fits or negative else None)


@pytest.mark.parametrize("value", [1.5, "1", b"1", None, [1], bytearray(8)])
def test_what_is_no_number(value):
    """The sentence has the argument and the value."""
    with pytest.raises(TypeError, match=r"^size is an int, not ") as caught:
        within("size", value, 0, 10)
    assert repr(value) in str(caught.value)


# What was struct.error, OverflowError, AttributeError, IndexError or accepted: (call, error, text).
WITHOUT_KVM = [
    (lambda: Regs(rax=-1), ValueError, "Regs.rax is 0x0 to 0xffffffffffffffff, not -0x1"),
    (lambda: Regs(rax="x"), TypeError, "Regs.rax is an int, not 'x'"),
    (lambda: MsrEntry(index=2**32), ValueError, "MsrEntry.index is 0x0 to 0xffffffff, not 0x1000"),
    (lambda: Sregs(cs=5), TypeError, "Sregs.cs is of type Segment, not 5"),
    (lambda: Fpu(xmm=7), TypeError, "Fpu.xmm is a sequence, not 7"),
    (lambda: Fpu(xmm=[bytes(16)] * 3), ValueError, "Fpu.xmm takes 16 values, not 3"),
    (lambda: Fpu(fpr=[[256] * 16] * 8), ValueError, r"Fpu.fpr\[0\]\[0\] is 0x0 to 0xff, not 0x100"),
    (lambda: Regs.from_bytes(144), TypeError, "data is a buffer of bytes, not 144"),
    (lambda: Regs.over(bytearray(3)), ValueError, "Regs takes 144 writable bytes, not 3"),
    (lambda: Regs.over(memoryview(bytes(144))), ValueError, "144 writable bytes, not read-only"),
    (lambda: LapicState().get(-4), ValueError, "offset is 0x0 to 0x3fc, not -0x4"),
    (lambda: LapicState().set(0x3FD, 1), ValueError, "offset is 0x0 to 0x3fc, not 0x3fd"),
    (lambda: LapicState().set(0, 2**32), ValueError, "value is 0x0 to 0xffffffff, not 0x1000"),
    (lambda: reg_size("rax"), TypeError, "register is an int, not 'rax'"),
    (lambda: msr_register(2**32), ValueError, "index is 0x0 to 0xffffffff, not 0x100000000"),
    (lambda: Pio(0x10000), ValueError, "port is 0x0 to 0xffff, not 0x10000"),
    (lambda: Pio("0x60"), TypeError, "port is an int, not '0x60'"),
    (lambda: Mmio(-1), ValueError, "address is 0x0 to 0xffffffffffffffff, not -0x1"),
    (lambda: IrqRoutingEntry.to_msi(1, 2**64, 0), ValueError, "address is 0x0 to 0xffffffffffff"),
    (lambda: IrqRoutingEntry.to_msi(1, "x", 0), TypeError, "address is an int, not 'x'"),
    (lambda: MsrFilterRange.allowing(0, 1 << 20), ValueError, "1 to 12288 registers, not 1048576"),
    (lambda: MsrFilterRange.allowing(0, -5), ValueError, "1 to 12288 registers, not -5"),
    (lambda: MsrFilterRange.allowing(-1, 5), ValueError, "base is 0x0 to 0xffffffff, not -0x1"),
    (lambda: MsrFilterRange.allowing(0, 5, [1.0]), TypeError, "an allowed MSR is an int, not 1.0"),
    (lambda: MsrFilterRange.allowing(0, 5, 1), TypeError, "allowed is a sequence, not 1"),
    (lambda: Zone(0x10, 1), TypeError, "address is a Pio or an Mmio, not 16"),
    (lambda: Zone(Pio(0x10), 1.5), TypeError, "size is an int, not 1.5"),
    (lambda: Zone(Pio(0xFFFF), 2), ValueError, "there are no 2 addresses at 0xffff"),
    (lambda: Zone(Mmio(0), 2**64 + 1), ValueError, "size is 0x1 to 0x10000000000000000, not 0x1"),
    (lambda: LogZone(Pio(1), 1, 0), ValueError, "capacity is 0x1 to 0xffffffff, not 0x0"),
    (lambda: RegisterZone(Pio(1), b"abc"), TypeError, "memory is writable, not b'abc'"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WITHOUT_KVM)
def test_mistakes_in_structures(call, kind, text):
    """They are one of the two errors, with the member's name and the value."""
    with pytest.raises(kind, match=text) as caught:
        call()
    assert type(caught.value) is kind


VM = [
    (lambda vm: vm.create_vcpu("1"), TypeError, "vcpu_id is an int, not '1'"),
    (lambda vm: vm.create_vcpu(bytearray(8)), TypeError, "vcpu_id is an int, not bytearray"),
    (lambda vm: vm.create_vcpu(2**32), ValueError, "vcpu_id is 0x0 to 0xffffffff, not 0x1000"),
    (lambda vm: vm.check_extension("x"), TypeError, "cap is an int, not 'x'"),
    (lambda vm: vm.set_nr_mmu_pages(2**32 + 100), ValueError, "pages is 0x0 to 0xffffffff, not"),
    (lambda vm: vm.set_tss_address(-1), ValueError, "address is 0x0 to 0xffffffffffffffff, not -"),
    (lambda vm: vm.set_identity_map_address(2**64), ValueError, "address is 0x0 to 0xffffffffffff"),
    (lambda vm: vm.set_boot_cpu_id(-1), ValueError, "vcpu_id is 0x0 to 0xffffffff, not -0x1"),
    (lambda vm: vm.set_irq_line(2**32, True), ValueError, "irq of struct kvm_irq_level is 0x0 to"),
    (lambda vm: vm.set_irq_line("4", True), TypeError, "irq of struct kvm_irq_level is an int, no"),
    (lambda vm: vm.signal_msi(-1, 0), ValueError, "address is 0x0 to 0xffffffffffffffff, not -0x1"),
    (lambda vm: vm.signal_msi(0, 2**32), ValueError, "data of struct kvm_msi is 0x0 to 0xffffffff"),
    (lambda vm: vm.enable_cap("1"), TypeError, "cap of struct kvm_enable_cap is an int, not '1'"),
    (lambda vm: vm.enable_cap(1, -1), ValueError, r"args of struct kvm_enable_cap\[0\] is 0x0 to"),
    (lambda vm: vm.enable_cap(1, flags=-1), ValueError, "flags of struct kvm_enable_cap is 0x0"),
    (lambda vm: vm.register_ioevent(0, 5), TypeError, "address is a Pio or an Mmio, not 5"),
    (lambda vm: vm.register_ioevent("f", Pio(5)), TypeError, "fd of struct kvm_ioeventfd is an in"),
    (lambda vm: vm.register_ioevent(0, Pio(5), 1, ""), TypeError, "datamatch of struct kvm_ioeven"),
    (lambda vm: vm.register_coalesced_mmio(5, 1), TypeError, "address is a Pio or an Mmio, not 5"),
    (
        lambda vm: vm.set_gsi_routing([0] * 3),
        TypeError,
        r"entries\[0\] is of type IrqRoutingEntry, not 0",
    ),
    (
        lambda vm: vm.set_gsi_routing([CpuidEntry()]),
        TypeError,
        r"entries\[0\] is of type IrqRoutingEntr",
    ),
    (lambda vm: vm.set_gsi_routing(7), TypeError, "entries is a sequence, not 7"),
    (lambda vm: vm.set_clock(5), TypeError, "what KVM_SET_CLOCK takes is of type ClockData, not 5"),
    (lambda vm: vm.get_irqchip(-1), ValueError, "IrqChip.chip_id is 0x0 to 0xffffffff, not -0x1"),
    (lambda vm: vm.create_guest_memfd(-1), ValueError, "size of struct kvm_create_guest_memfd is"),
    (lambda vm: vm.create_device("vfio"), TypeError, "type of struct kvm_create_device is an int"),
    (lambda vm: vm.set_msr_filter([5]), TypeError, "a range is of type MsrFilterRange, not 5"),
    (lambda vm: vm.set_msr_filter(5), TypeError, "ranges is a sequence, not 5"),
    (
        lambda vm: vm.set_msr_filter([MsrFilterRange(0, 8, 1)]),
        TypeError,
        "bitmap is a buffer of bytes, not 1",
    ),
    (
        lambda vm: vm.set_pmu_event_filter([-1], allow=True),
        ValueError,
        "an event is 0x0 to 0xffffffffffffffff, not -0x1",
    ),
    (
        lambda vm: vm.set_pmu_event_filter([], allow=True, fixed_counter_bitmap=2**32),
        ValueError,
        "fixed_counter_bitmap is 0x0 to 0xffffffff",
    ),
    (
        lambda vm: vm.memory_encrypt_op(bytearray(8)),
        ValueError,
        "at least 24 writable bytes, not 8",
    ),
    (lambda vm: vm.memory_encrypt_op(bytes(24)), ValueError, "24 writable bytes, not read-only"),
    (lambda vm: vm.memory_encrypt_op(24), TypeError, "command is a writable buffer, not 24"),
    (
        lambda vm: vm.xen_hvm_config(0, 0, bytes(5)),
        ValueError,
        "blob_32 is pages of 4096 bytes, no",
    ),
    (lambda vm: vm.xen_hvm_get_attr(5), TypeError, "attribute is of type XenHvmAttr, not 5"),
]


@pytest.mark.kvm
@pytest.mark.parametrize(("call", "kind", "text"), VM)
def test_mistakes_with_a_machine(vm, call, kind, text):
    """They are one of the two errors, with the argument's name and the value; KVM is not asked."""
    with pytest.raises(kind, match=text) as caught:
        call(vm)
    assert type(caught.value) is kind


VCPU = [
    (
        lambda vcpu: vcpu.set_regs(vcpu.get_sregs()),
        TypeError,
        "KVM_SET_REGS takes is of type Regs, not S",
    ),
    (lambda vcpu: vcpu.set_regs({}), TypeError, "KVM_SET_REGS takes is of type Regs, not {}"),
    (
        lambda vcpu: vcpu.set_fpu(vcpu.get_xsave()),
        TypeError,
        "KVM_SET_FPU takes is of type Fpu, not Xsa",
    ),
    (lambda vcpu: vcpu.set_xsave(Xcrs()), TypeError, "xsave is of type Xsave, not Xcrs"),
    (
        lambda vcpu: vcpu.set_nested_state(Xcrs()),
        TypeError,
        "state is of type NestedState, not Xcrs",
    ),
    (lambda vcpu: vcpu.xen_vcpu_get_attr(5), TypeError, "attribute is of type XenVcpuAttr, not 5"),
    (
        lambda vcpu: vcpu.set_cpuid2([0] * 100),
        TypeError,
        r"entries\[0\] is of type CpuidEntry, not 0",
    ),
    (
        lambda vcpu: vcpu.set_cpuid2([10**12]),
        TypeError,
        r"entries\[0\] is of type CpuidEntry, not 10000",
    ),
    (lambda vcpu: vcpu.set_cpuid2(5), TypeError, "entries is a sequence, not 5"),
    (lambda vcpu: vcpu.set_msrs({-1: 0}), ValueError, "MsrEntry.index is 0x0 to 0xffffffff, not -"),
    (lambda vcpu: vcpu.set_msrs([1]), TypeError, r"values is a mapping, not \[1\]"),
    (lambda vcpu: vcpu.get_msrs(5), TypeError, "indices is a sequence, not 5"),
    (lambda vcpu: vcpu.get_msrs(["x"]), TypeError, "MsrEntry.index is an int, not 'x'"),
    (lambda vcpu: vcpu.set_zones(5), TypeError, "zones is a sequence, not 5"),
    (lambda vcpu: vcpu.set_zones([5]), TypeError, "a zone is a Zone, not 5"),
    (lambda vcpu: vcpu.set_mp_state("0"), TypeError, "mp_state of struct kvm_mp_state is an int, "),
    (lambda vcpu: vcpu.interrupt(-1), ValueError, "irq of struct kvm_interrupt is 0x0 to 0xffffff"),
    (lambda vcpu: vcpu.set_tsc_khz(2**32 + 5), ValueError, "khz is 0x0 to 0xffffffff, not 0x10000"),
    (lambda vcpu: vcpu.set_tsc_khz(b"12345678"), TypeError, "khz is an int, not b'12345678'"),
    (
        lambda vcpu: vcpu.set_tsc_offset(-(2**63) - 1),
        ValueError,
        "offset is -0x8000000000000000 to",
    ),
    (
        lambda vcpu: vcpu.set_one_reg(msr_register(1), -1),
        ValueError,
        "value is 0x0 to 0xffffffffff",
    ),
    (lambda vcpu: vcpu.get_one_reg(-1), ValueError, "register is 0x0 to 0xffffffffffffffff, not -"),
    (lambda vcpu: vcpu.setup_mce(-1), ValueError, "mcg_cap is 0x0 to 0xffffffffffffffff, not -0x1"),
    (
        lambda vcpu: vcpu.vcpu_finalize(2**31),
        ValueError,
        "feature is -0x80000000 to 0x7fffffff, no",
    ),
    (lambda vcpu: vcpu.translate(-1), ValueError, "Translation.linear_address is 0x0 to"),
    (lambda vcpu: vcpu.set_guest_debug(1, [0] * 9), ValueError, "at most 8 values, not 9"),
    (lambda vcpu: vcpu.set_guest_debug(1, 5), TypeError, "debugreg is a sequence, not 5"),
    (lambda vcpu: vcpu.set_guest_debug(-1), ValueError, "control of struct kvm_guest_debug is 0x0"),
    (lambda vcpu: vcpu.get_device_attr(0, 0, -1), ValueError, "size is 0x0 to 0x10000, not -0x1"),
    (lambda vcpu: vcpu.get_device_attr(0, 0, b"8"), TypeError, "size is an int, not b'8'"),
    (lambda vcpu: vcpu.set_device_attr(0, 0, 8), TypeError, "value is a buffer of bytes, not 8"),
]


@pytest.mark.kvm
@pytest.mark.parametrize(("call", "kind", "text"), VCPU)
def test_mistakes_with_a_vcpu(start, call, kind, text):
    """They are one of the two errors, with the argument's name and the value; KVM is not asked.

    The wrong behaviour: KVM read registers out of segments, and entries past their buffer's end.
    """
    with pytest.raises(kind, match=text) as caught:
        call(start("f4"))
    assert type(caught.value) is kind


@pytest.mark.kvm
def test_a_type_of_machine_that_is_no_number(kvm):
    """create_vm() too; it was an OverflowError."""
    with pytest.raises(ValueError, match="vm_type is 0x0 to 0xffffffffffffffff, not -0x1"):
        kvm.create_vm(-1)


@pytest.mark.kvm
def test_bitmaps_of_any_kind(vm, needs):
    """A filter's bitmap is any buffer; memoryviews and bytearrays were refused."""
    needs(Cap.X86_MSR_FILTER)
    for bitmap in b"\xff", bytearray(b"\xff"), memoryview(b"\xff"):
        vm.set_msr_filter([MsrFilterRange(0, 8, bitmap)])


@pytest.mark.parametrize("value", [-1000, 2**64 - 1000])
def test_answers_may_be_negative(value):
    """A hypercall's result is mostly a negative errno; it was refused."""
    memory = bytearray(12288)
    memory[8] = 3  # KVM_EXIT_HYPERCALL
    call = RunPage(memory).decode()
    call.ret = value
    assert call.ret == 2**64 - 1000


def test_words_of_the_run_page():
    """cr8 and the sets of registers are 64 bits."""
    page = RunPage(bytearray(12288))
    with pytest.raises(ValueError, match="cr8 is 0x0 to"):
        page.cr8 = -1
    for name in "valid", "dirty":
        with pytest.raises(TypeError, match=f"{name} is an int, not 'regs'"):
            setattr(SyncRegs(page.raw), name, "regs")


def pickled(structure):
    """A copy by way of a file."""
    return pickle.loads(pickle.dumps(structure))  # noqa: S301 - our own


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_copies_have_bytes_of_their_own(again):
    """copy.copy() shared them; deepcopy() and pickle failed."""
    whole = bytearray(2 * Regs.SIZE)
    first = Regs.over(memoryview(whole)[Regs.SIZE :])
    first.rax = 1
    second = again(first)
    assert (type(second), second.rax) == (Regs, 1)
    second.rax = 5
    assert first.rax == 1


@pytest.mark.kvm
def test_cpuid_of_a_vcpu_that_was_taken_over(kvm, vm, start):
    """It is as long as somebody else made it: not E2BIG, and without empty entries behind it."""
    vcpu, entries = start("f4"), kvm.get_supported_cpuid()
    vcpu.set_cpuid2(entries)
    with vm.vcpu_from_fd(os.dup(vcpu.fileno()), 0) as same:
        assert len(same.get_cpuid2()) == len(entries)
        assert same.get_cpuid2() == vcpu.get_cpuid2()
