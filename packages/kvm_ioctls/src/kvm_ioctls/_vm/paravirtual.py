"""The interfaces of other hypervisors that KVM imitates: Hyper-V and Xen.

Source: Documentation/virt/kvm/api.rst, sections 4.116, 4.128, 4.129 and 4.131.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls._arguments import octets, of_kind
from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.xen import XenHvmAttr

if TYPE_CHECKING:
    from kvm_ioctls._slots import SlotTable
    from kvm_ioctls._struct import Buffer

_BLOB_PAGE = 4096  # x86


class Paravirtual(Resource):
    """Hyper-V and Xen, as far as the whole machine is concerned."""

    _slots: SlotTable

    def hyperv_eventfd(self, conn_id: int, fd: int | None) -> None:
        """KVM_HYPERV_EVENTFD: the guest's HvSignalEvent on `conn_id` signals eventfd `fd`.

        None ends that.
        """
        what = {"conn_id": conn_id, "fd": fd if fd is not None else -1}
        if fd is None:
            what["flags"] = lib.KVM_HYPERV_EVENTFD_DEASSIGN
        self._fd.ioctl_record("KVM_HYPERV_EVENTFD", record("struct kvm_hyperv_eventfd", what))

    def xen_hvm_config(
        self, flags: int, msr: int = 0, blob_32: Buffer = b"", blob_64: Buffer = b""
    ) -> None:
        """KVM_XEN_HVM_CONFIG: lets the guest find Xen, its hypercalls coming as exits.

        Args:
            flags: KVM_XEN_HVM_CONFIG_*, of which KVM_CAP_XEN_HVM says what there is.
            msr: the register by which the guest asks for its hypercall page.
            blob_32: what that page is filled with for a 32-bit guest, pages of 4096 bytes; needs
                flags without KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL.
            blob_64: the same for a 64-bit guest.
        """
        what, held = {"flags": flags, "msr": msr}, []
        for bits, blob in (32, blob_32), (64, blob_64):
            if data := octets(f"blob_{bits}", blob):
                if len(data) % _BLOB_PAGE:
                    raise ValueError(f"blob_{bits} is pages of 4096 bytes, not {len(data)} bytes")
                held.append(ffi.from_buffer("char[]", data))
                what[f"blob_addr_{bits}"] = int(ffi.cast("uintptr_t", held[-1]))
                what[f"blob_size_{bits}"] = len(data) // _BLOB_PAGE
        self._fd.ioctl_record("KVM_XEN_HVM_CONFIG", record("struct kvm_xen_hvm_config", what))
        if held:  # KVM reads them when the guest asks for its page, as long as the machine lives
            self._slots.blobs = held

    def xen_hvm_get_attr(self, attribute: XenHvmAttr) -> XenHvmAttr:
        """KVM_XEN_HVM_GET_ATTR: the attribute of its `type`, filled in."""
        return self._fd.fill(
            "KVM_XEN_HVM_GET_ATTR", of_kind("attribute", attribute, XenHvmAttr).copy()
        )

    def xen_hvm_set_attr(self, attribute: XenHvmAttr) -> None:
        """KVM_XEN_HVM_SET_ATTR."""
        self._fd.put("KVM_XEN_HVM_SET_ATTR", attribute, XenHvmAttr)

    def xen_hvm_evtchn_send(self, port: int, vcpu: int, priority: int = 0xFFFF_FFFF) -> int:
        """KVM_XEN_HVM_EVTCHN_SEND: raises an event channel; by default of the two-level kind."""
        what = {"port": port, "vcpu": vcpu, "priority": priority}
        event = record("struct kvm_irq_routing_xen_evtchn", what)
        return self._fd.ioctl_record("KVM_XEN_HVM_EVTCHN_SEND", event)
