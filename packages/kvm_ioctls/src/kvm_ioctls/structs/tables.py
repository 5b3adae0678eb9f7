"""Entries of the lists that x86's KVM takes, and its answer to an address translation."""

from __future__ import annotations

from kvm_ioctls._struct import KvmStruct


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


class MachineCheck(KvmStruct, ctype="struct kvm_x86_mce"):
    """A machine check for a bank of the guest's (KVM_X86_SET_MCE); SDM vol. 3 §16.3.2."""

    status: int = 0
    addr: int = 0
    misc: int = 0
    mcg_status: int = 0
    bank: int = 0
