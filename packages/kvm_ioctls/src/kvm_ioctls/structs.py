"""The kernel's structures, with the kernel's own member names.

Sources: `<linux/kvm.h>`, `<asm/kvm.h>` and Documentation/virt/kvm/api.rst, where each structure is
explained under the ioctl that takes it.  Numbers are plain `int`; addresses and sizes are bytes,
times are nanoseconds.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from kvm_ioctls._ffi import lib
from kvm_ioctls._struct import ZERO, Buffer, KvmStruct

# ------------------------------------------------------------------------------------- registers


class Regs(KvmStruct, ctype="struct kvm_regs"):
    """General registers, instruction pointer and flags (KVM_GET_REGS)."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 0


class Segment(KvmStruct, ctype="struct kvm_segment"):
    """A segment register with its cached descriptor (SDM vol. 3 §3.4.3); `limit` in bytes."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741 - the descriptor's L bit
    g: int = 0
    avl: int = 0
    unusable: int = 0


class Dtable(KvmStruct, ctype="struct kvm_dtable"):
    """GDTR or IDTR."""

    base: int = 0
    limit: int = 0


class Sregs(KvmStruct, ctype="struct kvm_sregs"):
    """Segments, descriptor tables, control registers, EFER and APIC base (KVM_GET_SREGS)."""

    cs: Segment = ZERO
    ds: Segment = ZERO
    es: Segment = ZERO
    fs: Segment = ZERO
    gs: Segment = ZERO
    ss: Segment = ZERO
    tr: Segment = ZERO
    ldt: Segment = ZERO
    gdt: Dtable = ZERO
    idt: Dtable = ZERO
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0
    interrupt_bitmap: memoryview = ZERO


class Fpu(KvmStruct, ctype="struct kvm_fpu"):
    """x87 and SSE state (KVM_GET_FPU); `fpr` and `xmm` are tuples of 16-byte views.

    x86's KVM neither reports nor takes `mxcsr` here: it is in the XSAVE area.
    """

    fpr: tuple[memoryview, ...] = ZERO
    fcw: int = 0
    fsw: int = 0
    ftwx: int = 0
    last_opcode: int = 0
    last_ip: int = 0
    last_dp: int = 0
    xmm: tuple[memoryview, ...] = ZERO
    mxcsr: int = 0


class Xsave(KvmStruct, ctype="struct kvm_xsave"):
    """The XSAVE area (KVM_GET_XSAVE2): `raw` is longer than `region` on some hosts."""

    region: memoryview = ZERO

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """A copy of `data`, at least `SIZE` bytes: the area grows with the host's features."""
        if len(data) < cls.SIZE:
            raise ValueError(f"Xsave is at least {cls.SIZE} bytes, not {len(data)}")
        return cls.over(bytearray(data))

    @classmethod
    def over(cls, memory: bytearray | memoryview) -> Self:
        """An area that fills `memory`, without a copy."""
        made = cls.__new__(cls)
        made.raw = memoryview(memory)
        return made


class Xcr(KvmStruct, ctype="struct kvm_xcr"):
    """One extended control register: XCR number and value."""

    xcr: int = 0
    value: int = 0


class Xcrs(KvmStruct, ctype="struct kvm_xcrs"):
    """The extended control registers (KVM_GET_XCRS): the first `nr_xcrs` of `xcrs`."""

    nr_xcrs: int = 0
    flags: int = 0
    xcrs: tuple[Xcr, ...] = ZERO


class DebugRegs(KvmStruct, ctype="struct kvm_debugregs"):
    """The guest's own debug registers (KVM_GET_DEBUGREGS); `db` is DR0 to DR3."""

    db: memoryview = ZERO
    dr6: int = 0
    dr7: int = 0
    flags: int = 0


class CpuidEntry(KvmStruct, ctype="struct kvm_cpuid_entry2"):
    """One CPUID leaf; `index` counts when `flags` has KVM_CPUID_FLAG_SIGNIFCANT_INDEX (1)."""

    function: int = 0
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


class MsrEntry(KvmStruct, ctype="struct kvm_msr_entry"):
    """A model-specific register and its value."""

    index: int = 0
    data: int = 0


class Translation(KvmStruct, ctype="struct kvm_translation"):
    """The guest's own translation of an address (KVM_TRANSLATE)."""

    linear_address: int = 0
    physical_address: int = 0
    valid: int = 0
    writeable: int = 0
    usermode: int = 0


class MpState(IntEnum):
    """What a vCPU waits for (KVM_GET_MP_STATE); states of a newer kernel keep their number."""

    RUNNABLE = lib.KVM_MP_STATE_RUNNABLE
    UNINITIALIZED = lib.KVM_MP_STATE_UNINITIALIZED
    INIT_RECEIVED = lib.KVM_MP_STATE_INIT_RECEIVED
    HALTED = lib.KVM_MP_STATE_HALTED
    SIPI_RECEIVED = lib.KVM_MP_STATE_SIPI_RECEIVED
    STOPPED = lib.KVM_MP_STATE_STOPPED
    AP_RESET_HOLD = lib.KVM_MP_STATE_AP_RESET_HOLD
    SUSPENDED = lib.KVM_MP_STATE_SUSPENDED

    @classmethod
    def _missing_(cls, value: object) -> MpState | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member


# ---------------------------------------------------------------------------------- vCPU events


class ExceptionEvent(KvmStruct, ctype="kvm_vcpu_events_exception"):
    """An exception on its way into the guest."""

    injected: int = 0
    nr: int = 0
    has_error_code: int = 0
    pending: int = 0
    error_code: int = 0


class InterruptEvent(KvmStruct, ctype="kvm_vcpu_events_interrupt"):
    """An interrupt on its way into the guest, and the STI or MOV SS shadow."""

    injected: int = 0
    nr: int = 0
    soft: int = 0
    shadow: int = 0


class NmiEvent(KvmStruct, ctype="kvm_vcpu_events_nmi"):
    """An NMI on its way into the guest, and whether NMIs are blocked."""

    injected: int = 0
    pending: int = 0
    masked: int = 0


class SmiEvent(KvmStruct, ctype="kvm_vcpu_events_smi"):
    """System management mode and a latched INIT."""

    smm: int = 0
    pending: int = 0
    smm_inside_nmi: int = 0
    latched_init: int = 0


class VcpuEvents(KvmStruct, ctype="struct kvm_vcpu_events"):
    """Everything on its way into a vCPU (KVM_GET_VCPU_EVENTS)."""

    exception: ExceptionEvent = ZERO
    interrupt: InterruptEvent = ZERO
    nmi: NmiEvent = ZERO
    sipi_vector: int = 0
    flags: int = 0
    smi: SmiEvent = ZERO
    exception_has_payload: int = 0
    exception_payload: int = 0


# ------------------------------------------------------------------- interrupt controllers, timers


class LapicState(KvmStruct, ctype="struct kvm_lapic_state"):
    """The local APIC's register page (KVM_GET_LAPIC); offsets as in SDM vol. 3 table 11-1."""

    regs: memoryview = ZERO

    def get(self, offset: int) -> int:
        """The 32-bit register at `offset`."""
        return int.from_bytes(self.raw[offset : offset + 4], "little")

    def set(self, offset: int, value: int) -> None:
        """Stores `value` in the 32-bit register at `offset`."""
        self.raw[offset : offset + 4] = value.to_bytes(4, "little")


class PicState(KvmStruct, ctype="struct kvm_pic_state"):
    """One 8259A."""

    last_irr: int = 0
    irr: int = 0
    imr: int = 0
    isr: int = 0
    priority_add: int = 0
    irq_base: int = 0
    read_reg_select: int = 0
    poll: int = 0
    special_mask: int = 0
    init_state: int = 0
    auto_eoi: int = 0
    rotate_on_auto_eoi: int = 0
    special_fully_nested_mode: int = 0
    init4: int = 0
    elcr: int = 0
    elcr_mask: int = 0


class IoapicEntry(KvmStruct, ctype="kvm_ioapic_state_entry"):
    """One redirection entry; `bits` as in the 82093AA data sheet §3.2.4."""

    bits: int = 0


class IoapicState(KvmStruct, ctype="struct kvm_ioapic_state"):
    """The IOAPIC."""

    base_address: int = 0
    ioregsel: int = 0
    id: int = 0
    irr: int = 0
    redirtbl: tuple[IoapicEntry, ...] = ZERO


class _Chip(KvmStruct, ctype="kvm_irqchip_chip"):
    """The union of the chips' states."""

    pic: PicState = ZERO
    ioapic: IoapicState = ZERO


class IrqChip(KvmStruct, ctype="struct kvm_irqchip"):
    """One in-kernel interrupt controller (KVM_GET_IRQCHIP): `chip.pic` or `chip.ioapic`."""

    chip_id: int = 0
    chip: _Chip = ZERO


class IrqChipId(IntEnum):
    """The `chip_id` of each in-kernel interrupt controller."""

    PIC_MASTER = lib.KVM_IRQCHIP_PIC_MASTER
    PIC_SLAVE = lib.KVM_IRQCHIP_PIC_SLAVE
    IOAPIC = lib.KVM_IRQCHIP_IOAPIC


class PitChannelState(KvmStruct, ctype="struct kvm_pit_channel_state"):
    """One counter of the 8254; `count_load_time` in nanoseconds of the host's clock."""

    count: int = 0
    latched_count: int = 0
    count_latched: int = 0
    status_latched: int = 0
    status: int = 0
    read_state: int = 0
    write_state: int = 0
    write_latch: int = 0
    rw_mode: int = 0
    mode: int = 0
    bcd: int = 0
    gate: int = 0
    count_load_time: int = 0


class PitState2(KvmStruct, ctype="struct kvm_pit_state2"):
    """The in-kernel interval timer (KVM_GET_PIT2)."""

    channels: tuple[PitChannelState, ...] = ZERO
    flags: int = 0


class ClockData(KvmStruct, ctype="struct kvm_clock_data"):
    """The guest's kvmclock (KVM_GET_CLOCK), in nanoseconds."""

    clock: int = 0
    flags: int = 0
    realtime: int = 0
    host_tsc: int = 0
