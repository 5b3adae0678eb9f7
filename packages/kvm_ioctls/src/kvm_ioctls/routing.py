"""Where interrupt lines lead: the table of KVM_SET_GSI_ROUTING.

Source: Documentation/virt/kvm/api.rst, section 4.52.
"""

from __future__ import annotations

from typing import Self

from kvm_ioctls._arguments import unsigned
from kvm_ioctls._ffi import lib
from kvm_ioctls._struct import ZERO, KvmStruct


def halves(address: int) -> dict[str, int]:
    """A message's 64-bit address as the kernel's structures have it."""
    number = unsigned("address", address, 64)
    return {"address_lo": number & 0xFFFF_FFFF, "address_hi": number >> 32}


class IrqRoutingIrqchip(KvmStruct, ctype="struct kvm_irq_routing_irqchip"):
    """A pin of an in-kernel interrupt controller."""

    irqchip: int = 0
    pin: int = 0


class IrqRoutingMsi(KvmStruct, ctype="struct kvm_irq_routing_msi"):
    """A message-signalled interrupt."""

    address_lo: int = 0
    address_hi: int = 0
    data: int = 0
    devid: int = 0


class IrqRoutingHvSint(KvmStruct, ctype="struct kvm_irq_routing_hv_sint"):
    """A synthetic interrupt of Hyper-V's."""

    vcpu: int = 0
    sint: int = 0


class IrqRoutingXenEvtchn(KvmStruct, ctype="struct kvm_irq_routing_xen_evtchn"):
    """An event channel of Xen's."""

    port: int = 0
    vcpu: int = 0
    priority: int = 0


class _Route(KvmStruct, ctype="kvm_irq_routing_entry_u"):
    """The union of the places a GSI can lead to."""

    irqchip: IrqRoutingIrqchip = ZERO
    msi: IrqRoutingMsi = ZERO
    hv_sint: IrqRoutingHvSint = ZERO
    xen_evtchn: IrqRoutingXenEvtchn = ZERO


class IrqRoutingEntry(KvmStruct, ctype="struct kvm_irq_routing_entry"):
    """Where one GSI leads (KVM_SET_GSI_ROUTING): as `type` says, `u.irqchip` and so on."""

    gsi: int = 0
    type: int = 0
    flags: int = 0
    u: _Route = ZERO

    @classmethod
    def to_irqchip(cls, gsi: int, irqchip: int, pin: int) -> Self:
        """Leads `gsi` to a pin of an in-kernel interrupt controller."""
        entry = cls(gsi=gsi, type=lib.KVM_IRQ_ROUTING_IRQCHIP)
        entry.u.irqchip = IrqRoutingIrqchip(irqchip=irqchip, pin=pin)
        return entry

    @classmethod
    def to_msi(cls, gsi: int, address: int, data: int, devid: int | None = None) -> Self:
        """Leads `gsi` to a message: `data` written to the 64-bit `address`.

        `devid` is who sends it, where that matters (KVM_CAP_MSI_DEVID: arm64's ITS).
        """
        entry = cls(gsi=gsi, type=lib.KVM_IRQ_ROUTING_MSI)
        entry.u.msi = IrqRoutingMsi(data=data, **halves(address))
        if devid is not None:
            entry.flags, entry.u.msi.devid = lib.KVM_MSI_VALID_DEVID, devid
        return entry

    @classmethod
    def to_hv_sint(cls, gsi: int, vcpu: int, sint: int) -> Self:
        """Leads `gsi` to a synthetic interrupt of Hyper-V's (KVM_CAP_HYPERV_SYNIC)."""
        entry = cls(gsi=gsi, type=lib.KVM_IRQ_ROUTING_HV_SINT)
        entry.u.hv_sint = IrqRoutingHvSint(vcpu=vcpu, sint=sint)
        return entry

    @classmethod
    def to_xen_evtchn(cls, gsi: int, port: int, vcpu: int, priority: int = 0xFFFF_FFFF) -> Self:
        """Leads `gsi` to a Xen event channel; by default of the two-level kind."""
        entry = cls(gsi=gsi, type=lib.KVM_IRQ_ROUTING_XEN_EVTCHN)
        entry.u.xen_evtchn = IrqRoutingXenEvtchn(port=port, vcpu=vcpu, priority=priority)
        return entry
