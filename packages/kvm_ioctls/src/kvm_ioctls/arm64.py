"""arm64's own structure for starting a vCPU.

Source: Documentation/virt/kvm/api.rst, section 4.82, KVM_ARM_VCPU_INIT.
"""

from __future__ import annotations

from kvm_ioctls._struct import ZERO, KvmStruct


class VcpuInit(KvmStruct, ctype="struct kvm_vcpu_init"):
    """The processor that a vCPU is to be: its `target` and `features`, 32-bit words of bits."""

    target: int = 0
    features: memoryview = ZERO
