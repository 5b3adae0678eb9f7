"""Raising interrupts: lines, messages, eventfds, and where each leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls import _lists
from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.routing import IrqRoutingEntry, halves

if TYPE_CHECKING:
    from collections.abc import Sequence


class Interrupts(Resource):
    """Interrupt lines, messages and irqfds."""

    def set_irq_line(self, gsi: int, active: bool) -> None:
        """KVM_IRQ_LINE: sets the level of an interrupt line."""
        level = record("struct kvm_irq_level", {"irq": gsi, "level": bool(active)})
        self._fd.ioctl_record("KVM_IRQ_LINE", level)

    def set_irq_line_status(self, gsi: int, active: bool) -> int:
        """KVM_IRQ_LINE_STATUS: sets a line's level and tells what became of the interrupt.

        Returns:
            Above 0 how many vCPUs it reached, 0 when it merged with one that waits already, below 0
            when it was masked or cannot be delivered.
        """
        level = record("struct kvm_irq_level", {"irq": gsi, "level": bool(active)})
        self._fd.ioctl_record("KVM_IRQ_LINE_STATUS", level)
        return int(ffi.cast("int32_t", level.irq))  # a union: the status overwrites the line

    def signal_msi(self, address: int, data: int, devid: int | None = None) -> int:
        """KVM_SIGNAL_MSI: a message, `data` written to the 64-bit `address`.

        Args:
            address: where it goes.
            data: what it says.
            devid: who sends it, where that matters (KVM_CAP_MSI_DEVID: arm64's ITS).

        Returns:
            Above 0 when delivered, 0 when the guest blocked it.
        """
        message = halves(address) | {"data": data}
        if devid is not None:
            message |= {"flags": lib.KVM_MSI_VALID_DEVID, "devid": devid}
        return self._fd.ioctl_record("KVM_SIGNAL_MSI", record("struct kvm_msi", message))

    def set_gsi_routing(self, entries: Sequence[IrqRoutingEntry]) -> None:
        """KVM_SET_GSI_ROUTING: replaces the whole table."""
        packed = _lists.pack("struct kvm_irq_routing", IrqRoutingEntry, entries)
        self._fd.ioctl_buffer("KVM_SET_GSI_ROUTING", packed)

    def register_irqfd(self, fd: int, gsi: int, resample_fd: int | None = None) -> None:
        """KVM_IRQFD: a write to eventfd `fd` raises interrupt `gsi`.

        With `resample_fd` the line is level-triggered: it stays active until the guest ends the
        interrupt, which signals that eventfd.
        """
        what = {"fd": fd, "gsi": gsi}
        if resample_fd is not None:
            what |= {"flags": lib.KVM_IRQFD_FLAG_RESAMPLE, "resamplefd": resample_fd}
        self._fd.ioctl_record("KVM_IRQFD", record("struct kvm_irqfd", what))

    def unregister_irqfd(self, fd: int, gsi: int) -> None:
        """KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN."""
        what = {"fd": fd, "gsi": gsi, "flags": lib.KVM_IRQFD_FLAG_DEASSIGN}
        self._fd.ioctl_record("KVM_IRQFD", record("struct kvm_irqfd", what))
