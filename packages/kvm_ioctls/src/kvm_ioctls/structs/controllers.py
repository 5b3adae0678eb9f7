"""x86's interrupt controllers, timers and clock."""

from __future__ import annotations

from enum import IntEnum

from kvm_ioctls._arguments import unsigned, within
from kvm_ioctls._ffi import lib
from kvm_ioctls._struct import ZERO, KvmStruct


class LapicState(KvmStruct, ctype="struct kvm_lapic_state"):
    """The local APIC's register page (KVM_GET_LAPIC); offsets as in SDM vol. 3 table 11-1."""

    regs: memoryview = ZERO

    def get(self, offset: int) -> int:
        """The 32-bit register at `offset`."""
        place = within("offset", offset, 0, self.SIZE - 4)
        return int.from_bytes(self.raw[place : place + 4], "little")

    def set(self, offset: int, value: int) -> None:
        """Stores `value` in the 32-bit register at `offset`."""
        place = within("offset", offset, 0, self.SIZE - 4)
        self.raw[place : place + 4] = unsigned("value", value, 32).to_bytes(4, "little")


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
