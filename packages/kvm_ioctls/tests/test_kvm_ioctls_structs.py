"""Structures: the kernel's layout, typed members, views, bytes in and out."""

from __future__ import annotations

import platform
import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvm_ioctls
from kvm_ioctls import (
    CpuidEntry,
    DebugRegs,
    Fpu,
    IrqChip,
    IrqRoutingEntry,
    LapicState,
    MpState,
    MsrEntry,
    NestedState,
    NotInHeaderError,
    PitState2,
    Regs,
    Segment,
    Sregs,
    Sregs2,
    VcpuEvents,
    VcpuInit,
    Xcrs,
    XenHvmAttr,
    XenVcpuAttr,
    Xsave,
    _run,
)
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls._struct import KvmStruct

CLASSES = [
    value
    for name in kvm_ioctls.__all__
    if isinstance(value := getattr(kvm_ioctls, name), type) and issubclass(value, KvmStruct)
]
FOREIGN = [cls for cls in CLASSES if cls.SIZE == 0]
by_class = pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES if cls.SIZE], ids=lambda cls: cls.__name__
)


@pytest.mark.parametrize(
    ("request_name", "size"),
    [
        ("KVM_GET_REGS", Regs.SIZE),
        ("KVM_GET_SREGS", Sregs.SIZE),
        ("KVM_GET_FPU", Fpu.SIZE),
        ("KVM_GET_LAPIC", LapicState.SIZE),
        ("KVM_GET_IRQCHIP", IrqChip.SIZE),
        ("KVM_GET_PIT2", PitState2.SIZE),
        ("KVM_GET_CLOCK", kvm_ioctls.ClockData.SIZE),
        ("KVM_GET_VCPU_EVENTS", VcpuEvents.SIZE),
        ("KVM_GET_DEBUGREGS", DebugRegs.SIZE),
        ("KVM_GET_XSAVE", Xsave.SIZE),
        ("KVM_GET_XCRS", Xcrs.SIZE),
        ("KVM_TRANSLATE", kvm_ioctls.Translation.SIZE),
        ("KVM_GET_SREGS2", Sregs2.SIZE),
        ("KVM_GET_NESTED_STATE", NestedState.SIZE),
        ("KVM_X86_SET_MCE", kvm_ioctls.MachineCheck.SIZE),
        ("KVM_XEN_HVM_GET_ATTR", XenHvmAttr.SIZE),
        ("KVM_XEN_VCPU_GET_ATTR", XenVcpuAttr.SIZE),
    ],
)
def test_sizes_are_those_in_the_request_numbers(request_name, size):
    """An ioctl number carries the size of its structure in bits 16 to 29."""
    assert getattr(lib, request_name) >> 16 & 0x3FFF == size


@pytest.mark.parametrize(
    ("request_name", "ctype", "size"),
    [
        ("KVM_SET_USER_MEMORY_REGION2", "struct kvm_userspace_memory_region2", 160),
        ("KVM_CREATE_GUEST_MEMFD", "struct kvm_create_guest_memfd", 64),
        ("KVM_SET_MEMORY_ATTRIBUTES", "struct kvm_memory_attributes", 32),
        ("KVM_PRE_FAULT_MEMORY", "struct kvm_pre_fault_memory", 64),
    ],
)
def test_structures_that_may_be_newer_than_the_header(request_name, ctype, size):
    """Ours and the header's agree: the sizes are the ABI's, which request numbers carry."""
    assert ffi.sizeof(ctype) == size == getattr(lib, request_name) >> 16 & 0x3FFF


def test_offsets_of_the_abi():
    """A few places that the x86-64 ABI fixes, read off the bytes."""
    assert bytes(Regs(rip=1))[128:136] == b"\1" + bytes(7)
    assert bytes(Sregs(cr3=2))[8 * 24 + 2 * 16 + 16 :][:8] == b"\2" + bytes(7)
    assert bytes(Segment(selector=0x1234))[12:14] == b"\x34\x12"
    assert bytes(CpuidEntry(eax=7))[12:16] == b"\7\0\0\0"
    assert bytes(MsrEntry(index=1, data=2)) == struct.pack("<IIQ", 1, 0, 2)


@by_class
def test_members_are_all_annotated_and_laid_out(cls):
    """Each annotated member exists in the C type: a typo would leave a plain default behind."""
    annotated = [name for name in cls.__annotations__ if name not in {"raw", "SIZE", "FIELDS"}]
    assert sorted(cls.FIELDS) == sorted(annotated)
    assert all(isinstance(getattr(cls, name), property) for name in annotated)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="they are this machine's own")
def test_structures_of_other_architectures():
    """They are arm64's; making one says which structure is not in the header."""
    assert {cls.__name__ for cls in FOREIGN} == {
        "ArmDebugRegisters",
        "ArmExceptionEvent",
        "ArmGuestDebug",
        "ArmVcpuEvents",
        "VcpuInit",
    }
    for make in (VcpuInit, lambda: VcpuInit.from_bytes(b""), lambda: VcpuInit.over(bytearray(64))):
        with pytest.raises(NotInHeaderError, match="has no struct kvm_vcpu_init") as caught:
            make()
        assert caught.value.name == "struct kvm_vcpu_init"


@by_class
def test_a_new_structure_is_zero(cls):
    """No member has a value of its own."""
    assert bytes(cls()) == bytes(cls.SIZE)
    assert repr(cls()) == f"{cls.__name__}()"


@by_class
def test_a_structure_made_in_c(cls):
    """What is made for the kernel to fill is what the class makes, with bytes of its own."""
    made, other = (_run.blank(cls, cls.SIZE) for _ in range(2))
    assert made == cls()
    made.raw[0] = 1
    assert (cls.from_bytes(bytes(made)), bytes(other)) == (made, bytes(cls.SIZE))


def test_what_is_no_structure():
    """A class that has no bytes, no size, no class."""
    for arguments in (int, 8), (Regs, "8"), (Regs(), 8), (Regs,):
        with pytest.raises((AttributeError, TypeError)):
            _run.blank(*arguments)


@by_class
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_bytes_round_trip(cls, seed):
    """Any bytes of the right length are a structure, and come back unchanged."""
    image = Random(seed).randbytes(cls.SIZE)  # noqa: S311 - any bytes
    record = cls.from_bytes(image)
    assert bytes(record) == image
    assert record == cls.from_bytes(image)
    assert repr(record).startswith(f"{cls.__name__}(")


@by_class
def test_other_lengths_are_refused(cls):
    """A structure is not made of too few bytes, nor of more unless it is one that grows."""
    with pytest.raises(ValueError, match=str(cls.SIZE)):
        cls.from_bytes(bytes(cls.SIZE - 1))
    if cls.GROWS:
        assert len(cls.from_bytes(bytes(cls.SIZE + 8)).raw) == cls.SIZE + 8
    else:
        with pytest.raises(ValueError, match=str(cls.SIZE)):
            cls.from_bytes(bytes(cls.SIZE + 1))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(Regs.FIELDS), st.integers(0, 2**64 - 1)))
def test_members_are_independent(values):
    """Setting some registers sets these and no others."""
    regs = Regs(**values)
    assert {name: getattr(regs, name) for name in Regs.FIELDS} == dict.fromkeys(
        Regs.FIELDS, 0
    ) | values
    assert Regs.from_bytes(bytes(regs)) == regs


@settings(deadline=None)
@given(st.sampled_from(Segment.FIELDS), st.integers())
def test_values_that_do_not_fit_are_refused(name, value):
    """A value is stored exactly or not at all."""
    segment = Segment()
    try:
        setattr(segment, name, value)
    except ValueError as error:
        assert str(error).startswith(f"Segment.{name} is 0x0 to 0x")  # noqa: PT017
        assert bytes(segment) == bytes(Segment.SIZE)
    else:
        assert getattr(segment, name) == value


def test_parts_are_views():
    """Writing to a part writes to the whole; assigning a part copies it."""
    sregs, code = Sregs(), Segment(base=5, type=11)
    sregs.cs = code
    code.base = 6
    assert sregs.cs.base == 5
    sregs.cs.base = 7
    assert sregs.cs == Segment(base=7, type=11)
    assert sregs.ds == Segment()


def test_assigning_the_wrong_kind_is_refused():
    """A Dtable is not a Segment."""
    with pytest.raises(TypeError, match="Segment"):
        Sregs().cs = kvm_ioctls.Dtable()


def test_unknown_members_are_refused():
    """Neither the constructor nor an assignment takes a name that the structure does not have."""
    with pytest.raises(TypeError, match="rop"):
        Regs(rop=1)
    with pytest.raises(AttributeError):
        Regs().rop = 1


def test_arrays_are_views():
    """Arrays of numbers can be read, written and assigned as a whole."""
    debugregs = DebugRegs(db=[1, 2, 3, 4])
    debugregs.db[1] = 2**63
    assert list(debugregs.db) == [1, 2**63, 3, 4]
    with pytest.raises(ValueError, match=r"DebugRegs\.db takes 4 values, not 2"):
        debugregs.db = [1, 2]


def test_arrays_of_arrays_and_of_structures_are_tuples_of_views():
    """fpu.xmm[3] is 16 bytes, irqchip...redirtbl[3] an entry."""
    fpu, chip = Fpu(), IrqChip(chip_id=2)
    fpu.xmm[3][:] = bytes(range(16))
    chip.chip.ioapic.redirtbl[3].bits = 0x10051
    assert bytes(fpu.xmm[3]) == bytes(range(16))
    assert not any(fpu.xmm[2])
    assert [e.bits for e in chip.chip.ioapic.redirtbl].index(0x10051) == 3
    assert len(chip.chip.ioapic.redirtbl) == 24


def test_a_record_in_foreign_memory():
    """over() shares the memory, copy() does not."""
    memory = bytearray(2 * Regs.SIZE)
    shared = Regs.over(memoryview(memory)[Regs.SIZE :])
    apart = shared.copy()
    shared.rax = 0x99
    assert memory[Regs.SIZE] == 0x99
    assert apart.rax == 0


def test_repr_reads_like_a_register_dump():
    """Names and hexadecimal values of what is not zero."""
    assert repr(Regs(rip=0x1000, rflags=2)) == "Regs(rip=0x1000, rflags=0x2)"
    assert repr(Sregs(cs=Segment(base=16))) == "Sregs(cs=Segment(base=0x10))"
    assert repr(DebugRegs(db=[0, 1, 0, 0])) == "DebugRegs(db=[0x0, 0x1, 0x0, 0x0])"


def test_equality_is_of_kind_and_bytes():
    """Structures of different kinds differ; structures are not hashable, for they change."""
    assert Regs(rax=1) == Regs(rax=1) != Regs(rax=2)
    assert kvm_ioctls.Dtable() != Segment()
    with pytest.raises(TypeError):
        hash(Regs())


def test_signed_members():
    """The timer's load time is signed."""
    pit = PitState2()
    pit.channels[0].count_load_time = -5
    assert pit.channels[0].count_load_time == -5


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_routes(address, data, gsi):
    """Routing entries hold a 64-bit address in two halves."""
    entry = IrqRoutingEntry.to_msi(gsi, address, data)
    assert (entry.gsi, entry.type, entry.u.msi.data) == (gsi, 2, data)
    assert entry.u.msi.address_hi << 32 | entry.u.msi.address_lo == address
    assert entry.flags == 0
    sent = IrqRoutingEntry.to_msi(gsi, address, data, devid=gsi)
    assert (sent.flags, sent.u.msi.devid, sent.u.msi.data) == (1, gsi, data)


def test_routes_to_pins():
    """The other kind of routing entry."""
    entry = IrqRoutingEntry.to_irqchip(4, irqchip=2, pin=9)
    assert (entry.gsi, entry.type) == (4, 1)
    assert (entry.u.irqchip.irqchip, entry.u.irqchip.pin) == (2, 9)


def test_routes_to_other_hypervisors_interrupts():
    """Hyper-V's synthetic interrupts and Xen's event channels."""
    sint, channel = IrqRoutingEntry.to_hv_sint(5, 1, 2), IrqRoutingEntry.to_xen_evtchn(6, 3, 4)
    assert (sint.type, sint.u.hv_sint.vcpu, sint.u.hv_sint.sint) == (4, 1, 2)
    assert (channel.type, channel.u.xen_evtchn.port, channel.u.xen_evtchn.vcpu) == (5, 3, 4)
    assert channel.u.xen_evtchn.priority == 2**32 - 1


def test_local_apic_registers():
    """get() and set() address 32-bit registers by offset."""
    lapic = LapicState()
    lapic.set(0xF0, 0x1FF)
    assert lapic.get(0xF0) == 0x1FF
    assert bytes(lapic.regs[0xF0:0xF4]) == b"\xff\x01\0\0"


def test_a_longer_xsave_area():
    """The area may be longer than the structure, not shorter."""
    assert len(bytes(Xsave.from_bytes(bytes(8192)))) == 8192
    with pytest.raises(ValueError, match="4096"):
        Xsave.from_bytes(bytes(100))


def test_states_of_a_newer_kernel_keep_their_number():
    """An unknown MpState is a value, not an error."""
    assert MpState(77) == 77
    assert MpState(3) is MpState.HALTED
    with pytest.raises(ValueError, match="many"):
        MpState("many")
