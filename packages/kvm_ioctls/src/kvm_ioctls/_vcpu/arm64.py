"""What only arm64's vCPUs can be asked."""

from __future__ import annotations

from kvm_ioctls._descriptor import Resource, scalar
from kvm_ioctls.arm64 import ArmGuestDebug, VcpuInit
from kvm_ioctls.structs import ArmVcpuEvents


class Arm64Vcpu(Resource):
    """arm64: initialisation and events; registers are reached by number."""

    def vcpu_init(self, init: VcpuInit) -> None:
        """KVM_ARM_VCPU_INIT: which processor it is; before anything else, and again to reset."""
        self._fd.put("KVM_ARM_VCPU_INIT", init, VcpuInit)

    def vcpu_finalize(self, feature: int) -> None:
        """KVM_ARM_VCPU_FINALIZE: ends the configuration of a feature, as KVM_ARM_VCPU_SVE."""
        self._fd.ioctl_record("KVM_ARM_VCPU_FINALIZE", scalar("int", "feature", feature))

    def get_arm_vcpu_events(self) -> ArmVcpuEvents:
        """KVM_GET_VCPU_EVENTS: system errors and aborts on their way into the guest."""
        return self._fd.fetch("KVM_GET_VCPU_EVENTS", ArmVcpuEvents)

    def set_arm_vcpu_events(self, events: ArmVcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        self._fd.put("KVM_SET_VCPU_EVENTS", events, ArmVcpuEvents)

    def set_arm_guest_debug(self, debug: ArmGuestDebug) -> None:
        """KVM_SET_GUEST_DEBUG with arm64's debug registers."""
        self._fd.put("KVM_SET_GUEST_DEBUG", debug, ArmGuestDebug)
