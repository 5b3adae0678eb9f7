"""What a vCPU waits for, and what is on its way into it."""

from __future__ import annotations

from enum import IntEnum

from kvm_ioctls._ffi import lib
from kvm_ioctls._struct import ZERO, KvmStruct


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


class TripleFault(KvmStruct, ctype="kvm_vcpu_events_triple_fault"):
    """A triple fault on its way to the VMM (KVM_CAP_X86_TRIPLE_FAULT_EVENT)."""

    pending: int = 0


class VcpuEvents(KvmStruct, ctype="struct kvm_vcpu_events"):
    """Everything on its way into an x86 vCPU (KVM_GET_VCPU_EVENTS)."""

    exception: ExceptionEvent = ZERO
    interrupt: InterruptEvent = ZERO
    nmi: NmiEvent = ZERO
    sipi_vector: int = 0
    flags: int = 0
    smi: SmiEvent = ZERO
    triple_fault: TripleFault = ZERO
    exception_has_payload: int = 0
    exception_payload: int = 0


class ArmExceptionEvent(KvmStruct, ctype="kvm_vcpu_events_exception"):
    """A system error or external abort on its way into an arm64 guest."""

    serror_pending: int = 0
    serror_has_esr: int = 0
    ext_dabt_pending: int = 0
    serror_esr: int = 0


class ArmVcpuEvents(KvmStruct, ctype="struct kvm_vcpu_events"):
    """Everything on its way into an arm64 vCPU (KVM_GET_VCPU_EVENTS)."""

    exception: ArmExceptionEvent = ZERO
