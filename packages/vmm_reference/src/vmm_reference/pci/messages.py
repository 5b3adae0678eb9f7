"""Interrupt messages (MSI) as GSIs: each vector is an irqfd, and a table says what a GSI sends.

KVM_SET_GSI_ROUTING replaces the whole table, so one object holds it for the machine. The table that
a new machine has (arch/x86/kvm/irq_comm.c: GSI n is pin n of the IOAPIC, and below 16 also of the
PICs) stays in front of it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from kvm_ioctls import IrqChipId, IrqRoutingEntry, KvmError
from vmm_reference.interrupts import EventFdTrigger

if TYPE_CHECKING:
    from kvm_ioctls.protocols import Vm
    from vm_allocator import GsiAllocator

logger = logging.getLogger(__name__)

_IOAPIC_PINS = 24
_PIC_PINS = 8
_PICS = (IrqChipId.PIC_MASTER, IrqChipId.PIC_SLAVE)


class GsiRoutes:
    """Where the machine's GSIs lead; any thread may change it.

    Args:
        vm: gets the table; its irqchip must exist.
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._lock = threading.Lock()
        self._fixed = [
            IrqRoutingEntry.to_irqchip(gsi, IrqChipId.IOAPIC, gsi) for gsi in range(_IOAPIC_PINS)
        ] + [
            IrqRoutingEntry.to_irqchip(gsi, _PICS[gsi // _PIC_PINS], gsi % _PIC_PINS)
            for gsi in range(len(_PICS) * _PIC_PINS)
        ]
        self._messages: dict[int, IrqRoutingEntry] = {}

    def set_message(self, gsi: int, address: int, data: int) -> None:
        """Let a GSI send a message; one that the hypervisor refuses goes nowhere."""
        with self._lock:
            self._messages[gsi] = IrqRoutingEntry.to_msi(gsi, address, data)
            try:
                self._tell()
            except KvmError as error:
                # The guest chose the message.
                logger.debug("message %#x to %#x goes nowhere: %s", data, address, error)
                del self._messages[gsi]
                self._tell()

    def remove(self, gsi: int) -> None:
        """Let a GSI lead nowhere; harmless if it does."""
        with self._lock:
            if self._messages.pop(gsi, None) is not None:
                self._tell()

    def _tell(self) -> None:
        self._vm.set_gsi_routing([*self._fixed, *self._messages.values()])


class IrqfdVector:
    """One interrupt message; satisfies `virtio_devices.MsiVector`.

    Args:
        vm: where its irqfd is registered.
        gsis: gives it a number.
        routes: the machine's table.

    Raises:
        NoFreeId: no GSI is left.
        KvmError: the hypervisor takes no more irqfds.
    """

    def __init__(self, vm: Vm, gsis: GsiAllocator, routes: GsiRoutes) -> None:
        self._routes = routes
        with contextlib.ExitStack() as undo:
            self.gsi = gsis.allocate_msi()
            undo.callback(gsis.free, self.gsi)
            self._trigger = EventFdTrigger()
            undo.callback(self._trigger.close)
            vm.register_irqfd(self._trigger.fileno(), self.gsi)
            undo.callback(vm.unregister_irqfd, self._trigger.fileno(), self.gsi)
            undo.callback(routes.remove, self.gsi)
            self._teardown = undo.pop_all()

    def set_message(self, address: int, data: int) -> None:
        """Choose what `trigger` sends."""
        self._routes.set_message(self.gsi, address, data)

    def trigger(self) -> None:
        """Send it."""
        self._trigger.trigger()

    def close(self) -> None:
        """Give irqfd, route and GSI back; may be called again."""
        self._teardown.close()
