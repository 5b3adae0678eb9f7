"""What a vCPU knows of Xen."""

from __future__ import annotations

from kvm_ioctls._arguments import of_kind
from kvm_ioctls._descriptor import Resource
from kvm_ioctls.xen import XenVcpuAttr


class ParavirtualVcpu(Resource):
    """Xen's part of a vCPU."""

    def xen_vcpu_get_attr(self, attribute: XenVcpuAttr) -> XenVcpuAttr:
        """KVM_XEN_VCPU_GET_ATTR: the attribute of its `type`, filled in."""
        return self._fd.fill(
            "KVM_XEN_VCPU_GET_ATTR", of_kind("attribute", attribute, XenVcpuAttr).copy()
        )

    def xen_vcpu_set_attr(self, attribute: XenVcpuAttr) -> None:
        """KVM_XEN_VCPU_SET_ATTR."""
        self._fd.put("KVM_XEN_VCPU_SET_ATTR", attribute, XenVcpuAttr)
