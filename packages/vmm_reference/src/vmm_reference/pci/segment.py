"""The PCI part of a machine as a whole: what the device manager makes, and adds devices to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kvm_ioctls import KvmError
from virtio_devices import PciTransport
from vm_allocator import NoFreeId, Range
from vmm_reference.acpi.pci import PciHost
from vmm_reference.arch.x86_64 import layout
from vmm_reference.errors import HostError
from vmm_reference.pci.access import PORTS_BASE, PORTS_SIZE, ConfigurationPorts, Ecam
from vmm_reference.pci.bus import PINS, SLOTS, PciBus
from vmm_reference.pci.host_bridge import HostBridge
from vmm_reference.pci.intx import IntxLine
from vmm_reference.pci.messages import GsiRoutes, IrqfdVector
from vmm_reference.pci.virtio import VirtioFunction
from vmm_reference.virtio.worker import VirtioWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_ioctls.protocols import Vm
    from virtio_devices import Device, VirtioError
    from vm_allocator import SystemAllocator
    from vm_memory import GuestMemory
    from vmm_reference.bus import Bus
    from vmm_reference.event_loop import EventLoop

_INTA = 1


class PciSegment:
    """A host bridge, its bus, and the two ways to its configuration spaces.

    Args:
        vm: the virtual machine; its irqchip must exist.
        pio: the port bus; gets the configuration ports.
        mmio: the memory bus; gets the ECAM and the functions' memory.
        allocator: the machine's addresses, ports and lines.

    Attributes:
        bus: where functions are attached and detached.
    """

    def __init__(self, vm: Vm, pio: Bus, mmio: Bus, allocator: SystemAllocator) -> None:
        self._vm = vm
        self._allocator = allocator
        self._routes = GsiRoutes(vm)
        self._teardown = contextlib.ExitStack()
        self._lines = [self._line(layout.PCI_INTX_GSI + pin) for pin in range(PINS)]
        self.bus = PciBus(mmio, allocator, layout.PCI_INTX_GSI)
        self.bus.attach(0, HostBridge())
        ecam = Range.sized(layout.PCI_ECAM_START, layout.PCI_ECAM_SIZE)
        allocator.physical.reserve(ecam, "PCI ECAM")
        mmio.insert(ecam.start, ecam.size, Ecam(self.bus))
        allocator.pio.reserve(Range.sized(PORTS_BASE, PORTS_SIZE), "PCI configuration")
        pio.insert(PORTS_BASE, PORTS_SIZE, ConfigurationPorts(self.bus))

    def add_virtio(
        self,
        device: Device,
        memory: GuestMemory,
        loop: EventLoop,
        report: Callable[[VirtioError], None],
    ) -> VirtioFunction:
        """Put a virtio device into the lowest free slot; it works on `loop`.

        It has a vector for each queue and one for configuration changes.

        Args:
            device: the device.
            memory: the guest's memory as the device sees it.
            loop: where it works.
            report: told what the guest did wrong with it.

        Raises:
            HostError: no address, interrupt or descriptor is left.
            UsageError: no slot is.
        """
        slot = self.bus.free_slot()
        with contextlib.ExitStack() as undo:
            try:
                vectors = [self._vector(undo) for _ in range(len(device.queue_sizes) + 1)]
                pin = self._lines[self.bus.gsi(slot, _INTA) - layout.PCI_INTX_GSI].pin()
                worker = VirtioWorker(device, loop)
                undo.callback(worker.close)
                transport = PciTransport(
                    device, memory, vectors=vectors, line=pin, kick=worker.kick, report=report
                )
                function = VirtioFunction(transport, worker, self._vm)
                undo.callback(function.close)
                self.bus.attach(slot, function)
            except (NoFreeId, KvmError, OSError) as error:
                raise HostError(f"no room for a PCI device: {error}") from error
            undo.callback(self.bus.detach, slot)
            self._teardown.push(undo.pop_all())
        return function

    def acpi(self) -> PciHost:
        """What the guest is told of it."""
        return PciHost(
            ecam=layout.PCI_ECAM_START,
            memory32=_extent(self._allocator.pci_mmio32),
            memory64=_extent(self._allocator.pci_mmio64),
            routes=[
                (slot, pin, self.bus.gsi(slot, pin))
                for slot in range(SLOTS)
                for pin in range(1, PINS + 1)
            ],
        )

    def close(self) -> None:
        """Reset and detach the devices that were added; may be called again."""
        self._teardown.close()

    def _line(self, gsi: int) -> IntxLine:
        self._allocator.gsis.reserve(gsi)
        return IntxLine(self._vm, gsi)

    def _vector(self, undo: contextlib.ExitStack) -> IrqfdVector:
        vector = IrqfdVector(self._vm, self._allocator.gsis, self._routes)
        undo.callback(vector.close)
        return vector


def _extent(window: Range) -> tuple[int, int]:
    return window.start, window.size
