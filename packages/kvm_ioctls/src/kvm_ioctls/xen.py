"""Attributes of Xen guests.

Source: Documentation/virt/kvm/api.rst, sections 4.128 to 4.131, which say what each `type` has in
`u`: 64 bytes, here as eight 64-bit words.
"""

from __future__ import annotations

from kvm_ioctls._struct import ZERO, KvmStruct


class _HvmValue(KvmStruct, ctype="kvm_xen_hvm_attr_u"):
    pad: memoryview = ZERO


class _VcpuValue(KvmStruct, ctype="kvm_xen_vcpu_attr_u"):
    pad: memoryview = ZERO


class XenHvmAttr(KvmStruct, ctype="struct kvm_xen_hvm_attr"):
    """An attribute of a machine (KVM_XEN_ATTR_TYPE_*); `u.pad` is its value."""

    type: int = 0
    u: _HvmValue = ZERO


class XenVcpuAttr(KvmStruct, ctype="struct kvm_xen_vcpu_attr"):
    """An attribute of a vCPU (KVM_XEN_VCPU_ATTR_TYPE_*); `u.pad` is its value."""

    type: int = 0
    u: _VcpuValue = ZERO
