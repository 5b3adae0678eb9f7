"""What a vCPU waits for, and raising events in it."""

from __future__ import annotations

from kvm_ioctls._descriptor import Resource, record, scalar
from kvm_ioctls.structs import MachineCheck, MpState, VcpuEvents


class Events(Resource):
    """Interrupts, exceptions and machine checks."""

    def get_mp_state(self) -> MpState:
        """KVM_GET_MP_STATE: whether it runs, halts, or waits for its start."""
        state = record("struct kvm_mp_state")
        self._fd.ioctl_record("KVM_GET_MP_STATE", state)
        return MpState(state.mp_state)

    def set_mp_state(self, state: MpState) -> None:
        """KVM_SET_MP_STATE."""
        made = record("struct kvm_mp_state", {"mp_state": state})
        self._fd.ioctl_record("KVM_SET_MP_STATE", made)

    def get_vcpu_events(self) -> VcpuEvents:
        """KVM_GET_VCPU_EVENTS: exceptions and interrupts on their way into the guest."""
        return self._fd.fetch("KVM_GET_VCPU_EVENTS", VcpuEvents)

    def set_vcpu_events(self, events: VcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        self._fd.put("KVM_SET_VCPU_EVENTS", events, VcpuEvents)

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT: queues an external interrupt, where there is no in-kernel irqchip.

        On riscv64 `vector` is `riscv64.Interrupt`: the interrupt is raised, or taken back.
        """
        self._fd.ioctl_record("KVM_INTERRUPT", record("struct kvm_interrupt", {"irq": vector}))

    def nmi(self) -> None:
        """KVM_NMI: queues a non-maskable interrupt."""
        self._fd.ioctl("KVM_NMI")

    def smi(self) -> None:
        """KVM_SMI: queues a system management interrupt."""
        self._fd.ioctl("KVM_SMI")

    def setup_mce(self, mcg_cap: int) -> None:
        """KVM_X86_SETUP_MCE: the guest's MCG_CAP: banks in bits 0 to 7, then features.

        `Kvm.get_mce_cap_supported()` says what there is.
        """
        self._fd.ioctl_record("KVM_X86_SETUP_MCE", scalar("__u64", "mcg_cap", mcg_cap))

    def set_mce(self, machine_check: MachineCheck) -> None:
        """KVM_X86_SET_MCE: raises a machine check, after `setup_mce()`."""
        self._fd.put("KVM_X86_SET_MCE", machine_check, MachineCheck)
