"""An x86 vCPU's local APIC, and how a VMM without one follows the task priority."""

from __future__ import annotations

from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls.structs import LapicState


class LocalApic(Resource):
    """The local APIC."""

    def get_lapic(self) -> LapicState:
        """KVM_GET_LAPIC: the in-kernel local APIC's registers."""
        return self._fd.fetch("KVM_GET_LAPIC", LapicState)

    def set_lapic(self, lapic: LapicState) -> None:
        """KVM_SET_LAPIC."""
        self._fd.put("KVM_SET_LAPIC", lapic, LapicState)

    def tpr_access_reporting(self, enabled: bool) -> None:
        """KVM_TPR_ACCESS_REPORTING: makes accesses to the task priority `TprAccess` exits."""
        made = record("struct kvm_tpr_access_ctl", {"enabled": bool(enabled)})
        self._fd.ioctl_record("KVM_TPR_ACCESS_REPORTING", made)

    def set_vapic_addr(self, address: int) -> None:
        """KVM_SET_VAPIC_ADDR: where, guest physical, the guest's option ROM keeps the priority."""
        made = record("struct kvm_vapic_addr", {"vapic_addr": address})
        self._fd.ioctl_record("KVM_SET_VAPIC_ADDR", made)
