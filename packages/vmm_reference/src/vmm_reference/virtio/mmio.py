"""Virtio devices as blocks of registers on the memory bus, each with an interrupt line.

A kick needs no exit: an ioeventfd on QueueNotify wakes the device's thread. ACPI tells the guest
where the blocks are (`vmm_reference.acpi`).
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from kvm_ioctls import Mmio
from virtio_devices import MMIO_SIZE, QUEUE_NOTIFY_OFFSET, MmioTransport
from vm_allocator import AllocatorError
from vmm_reference.acpi import VirtioMmio
from vmm_reference.errors import UsageError
from vmm_reference.virtio.reports import Reports
from vmm_reference.virtio.worker import VirtioWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_ioctls.protocols import Vm
    from virtio_devices import Device
    from vm_allocator import SystemAllocator
    from vm_memory import GuestMemory
    from vmm_reference.bus import Bus
    from vmm_reference.event_loop import EventLoop
    from vmm_reference.interrupts import Trigger

logger = logging.getLogger(__name__)


class VirtioMmioBus:
    """A `VirtioBus` of register blocks.

    Args:
        vm: where kicks are registered.
        bus: the memory bus.
        allocator: gives addresses and interrupt lines.
        interrupt_line: makes the trigger of a line, by its GSI.
        memory: the guest's memory as devices see it.

    Attributes:
        slots: where the devices are, for ACPI, in the order of their coming.
    """

    def __init__(
        self,
        vm: Vm,
        bus: Bus,
        allocator: SystemAllocator,
        interrupt_line: Callable[[int], Trigger],
        memory: GuestMemory,
    ) -> None:
        self._vm = vm
        self._bus = bus
        self._allocator = allocator
        self._interrupt_line = interrupt_line
        self._memory = memory
        self._teardown = contextlib.ExitStack()
        self.slots: list[VirtioMmio] = []

    def attach(self, device: Device, name: str, loop: EventLoop) -> None:
        """Give `device` a register block; see `VirtioBus`."""
        try:
            base = self._allocator.allocate_platform_mmio(MMIO_SIZE, owner=name).start
            gsi = self._allocator.gsis.allocate_pin()
        except AllocatorError as error:
            fit = f"{len(self.slots)} virtio-mmio devices have an interrupt line each"
            way_out = "--virtio-transport pci has room for more"
            raise UsageError(f"{fit}, and no other is left; {way_out}") from error
        worker = VirtioWorker(device, loop)
        self._teardown.callback(worker.close)
        transport = MmioTransport(
            device,
            self._memory,
            self._interrupt_line(gsi),
            kick=worker.kick,
            report=Reports(logger, name),
        )
        self._teardown.callback(transport.reset)
        for index, fd in enumerate(worker.kicks):
            notify = (fd, Mmio(base + QUEUE_NOTIFY_OFFSET), 4, index)
            self._vm.register_ioevent(*notify)
            self._teardown.callback(self._vm.unregister_ioevent, *notify)
        worker.start(transport.process_queue)
        self._bus.insert(base, MMIO_SIZE, _Registers(transport, worker))
        self.slots.append(VirtioMmio(base, MMIO_SIZE, gsi))
        logger.info("%s is at %#x, interrupt %d", name, base, gsi)

    def close(self) -> None:
        """Reset the devices, unregister their kicks; their loops have ended. Again is harmless."""
        self._teardown.close()


class _Registers:
    """A transport's registers; a write may start or stop the device behind them."""

    def __init__(self, transport: MmioTransport, worker: VirtioWorker) -> None:
        self.read = transport.read
        self._write = transport.write
        self._worker = worker

    def write(self, offset: int, data: memoryview) -> None:
        """Take what the guest wrote at `offset`."""
        self._write(offset, data)
        self._worker.look_again()
