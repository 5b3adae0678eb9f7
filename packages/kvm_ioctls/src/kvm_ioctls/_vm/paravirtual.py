"""The interfaces of other hypervisors that KVM imitates: Hyper-V and Xen.

Source: Documentation/virt/kvm/api.rst, sections 4.116, 4.128, 4.129 and 4.131.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls._ffi import lib

if TYPE_CHECKING:
    from kvm_ioctls.xen import XenHvmAttr


class Paravirtual(Resource):
    """Hyper-V and Xen, as far as the whole machine is concerned."""

    def hyperv_eventfd(self, conn_id: int, fd: int | None) -> None:
        """KVM_HYPERV_EVENTFD: the guest's HvSignalEvent on `conn_id` signals eventfd `fd`.

        None ends that.
        """
        what = {"conn_id": conn_id, "fd": fd if fd is not None else -1}
        if fd is None:
            what["flags"] = lib.KVM_HYPERV_EVENTFD_DEASSIGN
        self._fd.ioctl_record("KVM_HYPERV_EVENTFD", record("struct kvm_hyperv_eventfd", what))

    def xen_hvm_config(self, flags: int, msr: int = 0) -> None:
        """KVM_XEN_HVM_CONFIG: lets the guest find Xen, its hypercalls coming as exits.

        Args:
            flags: KVM_XEN_HVM_CONFIG_*, of which KVM_CAP_XEN_HVM says what there is.
            msr: the register by which the guest asks for its hypercall page.
        """
        config = record("struct kvm_xen_hvm_config", {"flags": flags, "msr": msr})
        self._fd.ioctl_record("KVM_XEN_HVM_CONFIG", config)

    def xen_hvm_get_attr(self, attribute: XenHvmAttr) -> XenHvmAttr:
        """KVM_XEN_HVM_GET_ATTR: the attribute of its `type`, filled in."""
        return self._fd.fill("KVM_XEN_HVM_GET_ATTR", attribute.copy())

    def xen_hvm_set_attr(self, attribute: XenHvmAttr) -> None:
        """KVM_XEN_HVM_SET_ATTR."""
        self._fd.put("KVM_XEN_HVM_SET_ATTR", attribute)

    def xen_hvm_evtchn_send(self, port: int, vcpu: int, priority: int = 0xFFFF_FFFF) -> int:
        """KVM_XEN_HVM_EVTCHN_SEND: raises an event channel; by default of the two-level kind."""
        what = {"port": port, "vcpu": vcpu, "priority": priority}
        event = record("struct kvm_irq_routing_xen_evtchn", what)
        return self._fd.ioctl_record("KVM_XEN_HVM_EVTCHN_SEND", event)
