"""x86's in-kernel interrupt controllers and interval timer."""

from __future__ import annotations

from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls.structs import IrqChip, PitState2


class InterruptControllers(Resource):
    """PIC, IOAPIC and the 8254."""

    def create_irq_chip(self) -> None:
        """KVM_CREATE_IRQCHIP: two PICs, an IOAPIC, a local APIC per vCPU; before the first vCPU."""
        self._fd.ioctl("KVM_CREATE_IRQCHIP")

    def create_pit2(self, flags: int = 0) -> None:
        """KVM_CREATE_PIT2: the 8254 timer; `flags` is 0 or KVM_PIT_SPEAKER_DUMMY (1)."""
        config = record("struct kvm_pit_config", {"flags": flags})
        self._fd.ioctl_record("KVM_CREATE_PIT2", config)

    def get_irqchip(self, chip_id: int) -> IrqChip:
        """KVM_GET_IRQCHIP: the state of a PIC (0, 1) or the IOAPIC (2)."""
        return self._fd.fill("KVM_GET_IRQCHIP", IrqChip(chip_id=chip_id))

    def set_irqchip(self, chip: IrqChip) -> None:
        """KVM_SET_IRQCHIP."""
        self._fd.put("KVM_SET_IRQCHIP", chip, IrqChip)

    def get_pit2(self) -> PitState2:
        """KVM_GET_PIT2."""
        return self._fd.fetch("KVM_GET_PIT2", PitState2)

    def set_pit2(self, pit: PitState2) -> None:
        """KVM_SET_PIT2."""
        self._fd.put("KVM_SET_PIT2", pit, PitState2)

    def reinject_control(self, reinject: bool) -> None:
        """KVM_REINJECT_CONTROL: whether timer interrupts that the guest missed are made up for."""
        made = record("struct kvm_reinject_control", {"pit_reinject": bool(reinject)})
        self._fd.ioctl_record("KVM_REINJECT_CONTROL", made)

    def set_boot_cpu_id(self, vcpu_id: int) -> None:
        """KVM_SET_BOOT_CPU_ID: which vCPU starts at reset; before the first vCPU."""
        self._fd.ioctl("KVM_SET_BOOT_CPU_ID", vcpu_id, "vcpu_id")
