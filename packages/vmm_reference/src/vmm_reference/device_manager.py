"""The devices of one virtual machine: which there are, where, and on which interrupt line.

It owns the two buses, the allocator that says what is taken, and the interrupt lines' eventfds. A
device does not know its address or its line; the rest of the VMM does not know the devices.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vm_allocator import Range, SystemAllocator
from vmm_reference import acpi
from vmm_reference.arch.x86_64 import layout
from vmm_reference.bus import Bus
from vmm_reference.interrupts import EventFdTrigger
from vmm_reference.legacy import cmos, debug_port, i8042, pvpanic, serial, sleep
from vmm_reference.pci import PciSegment
from vmm_reference.virtio.mmio import VirtioMmioBus
from vmm_reference.virtio.pci import VirtioPciBus
from vmm_reference.virtio_config import VirtioTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvm_ioctls.protocols import Vm
    from vm_memory import GuestMemory
    from vmm_reference.bus import Device
    from vmm_reference.legacy.pvpanic import PanicEvent
    from vmm_reference.memory_manager import MemoryManager
    from vmm_reference.virtio.bus import VirtioBus

_PORTS = 1 << 16
_RTC_GSI = 8
"""Where PCs have the clock's interrupt; ours has none, but a kernel may ask for the line."""
_COM = {number: (base, gsi) for number, base, gsi in serial.COM_PORTS}


class GuestRequests(Protocol):
    """What a guest can ask of its machine; called on the thread of the vCPU that asks."""

    def power_off(self) -> None:
        """End for good."""

    def reset(self) -> None:
        """Start again."""

    def panic(self, events: PanicEvent) -> None:
        """Take note that the guest's kernel has crashed."""


@dataclass(frozen=True, slots=True)
class SerialLine:
    """A serial port that the machine is to have.

    Attributes:
        number: 1 for COM1, to 4.
        output: gets what the guest writes.
        on_room: called when the port takes input again; None if there is no input.
        batch: how many bytes `output` may get at once (`legacy.serial`).
    """

    number: int
    output: Callable[[bytes], object]
    on_room: Callable[[], object] | None = None
    batch: int = 1


class DeviceManager:
    """Everything on the buses of one virtual machine.

    Args:
        vm: where interrupt lines are registered; its irqchip must exist.
        memory: how much memory the machine has, and where.
        requests: who hears what the guest asks for.
        lines: the serial ports.
        device_memory: the guest's memory as devices see it, if not as `memory` has it.
        virtio_transport: how the guest reaches its virtio devices.

    Attributes:
        pio: the port I/O bus.
        mmio: the memory bus.
        virtio: where virtio devices are attached.
        allocator: which addresses, ports and lines are taken.
        pci: the PCI bus.
    """

    def __init__(
        self,
        vm: Vm,
        memory: MemoryManager,
        requests: GuestRequests,
        lines: Sequence[SerialLine],
        *,
        device_memory: GuestMemory | None = None,
        virtio_transport: VirtioTransport = VirtioTransport.PCI,
    ) -> None:
        self.pio = Bus("port I/O", _PORTS)
        self.mmio = Bus("memory-mapped I/O")
        self.allocator = _allocator(memory)
        self.serial: dict[int, serial.Serial] = {}
        self._vm = vm
        self._teardown = contextlib.ExitStack()
        self._virtio_mmio: Sequence[acpi.VirtioMmio] = ()
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            for line in lines:
                self._add_serial(line)
            self._add_fixed(memory, requests)
            self.pci = PciSegment(vm, self.pio, self.mmio, self.allocator)
            self._teardown.callback(self.pci.close)
            self.virtio = self._virtio_bus(device_memory or memory.memory, virtio_transport)
            self._teardown.callback(self.virtio.close)
            on_error.pop_all()

    def acpi_tables(self, apic_ids: Sequence[int]) -> acpi.AcpiTables:
        """Describe these devices and the processors `apic_ids` to the guest."""
        return acpi.build_tables(
            acpi.AcpiConfig(
                base=layout.ACPI_START,
                cpu_apic_ids=apic_ids,
                local_apic_address=layout.LAPIC_ADDRESS,
                ioapic=acpi.IoApic(layout.IOAPIC_ID, layout.IOAPIC_ADDRESS, 0),
                serial_ports=[
                    acpi.SerialPort(number, *_COM[number]) for number in sorted(self.serial)
                ],
                sleep_port=sleep.BASE,
                pvpanic_port=pvpanic.BASE,
                rtc_port=cmos.BASE,
                pci=self.pci.acpi(),
                virtio_mmio=self._virtio_mmio,
            )
        )

    def flush(self) -> None:
        """Hand over all output that devices still hold."""
        for port in self.serial.values():
            port.flush()

    def close(self) -> None:
        """Reset virtio devices, unregister interrupt lines, close eventfds; may be called again."""
        self._teardown.close()

    def _virtio_bus(self, memory: GuestMemory, transport: VirtioTransport) -> VirtioBus:
        if transport is VirtioTransport.PCI:
            return VirtioPciBus(self.pci, memory)
        bus = VirtioMmioBus(self._vm, self.mmio, self.allocator, self._interrupt_line, memory)
        self._virtio_mmio = bus.slots
        return bus

    def _add_serial(self, line: SerialLine) -> None:
        base, gsi = _COM[line.number]
        self.allocator.gsis.reserve(gsi)
        port = serial.Serial(
            self._interrupt_line(gsi),
            line.output,
            on_room=line.on_room,
            batch=line.batch,
            # Linux empties the FIFO when it opens the port: what is typed earlier waits outside.
            flow_control=line.on_room is not None,
        )
        self._add_ports(f"COM{line.number}", base, serial.SIZE, port)
        self.serial[line.number] = port

    def _add_fixed(self, memory: MemoryManager, requests: GuestRequests) -> None:
        clock = cmos.Cmos(memory.below_gap, memory.above_gap)
        power = sleep.SleepControl(requests.power_off, requests.reset)
        self._add_ports("i8042", i8042.BASE, i8042.SIZE, i8042.I8042(requests.reset))
        self._add_ports("CMOS", cmos.BASE, cmos.SIZE, clock)
        self._add_ports("debug port", debug_port.BASE, debug_port.SIZE, debug_port.DebugPort())
        self._add_ports("pvpanic", pvpanic.BASE, pvpanic.SIZE, pvpanic.Pvpanic(requests.panic))
        self._add_ports("sleep control", sleep.BASE, sleep.SIZE, power)

    def _add_ports(self, owner: str, base: int, size: int, device: Device) -> None:
        self.allocator.pio.reserve(Range.sized(base, size), owner)
        self.pio.insert(base, size, device)

    def _interrupt_line(self, gsi: int) -> EventFdTrigger:
        trigger = EventFdTrigger()
        self._teardown.callback(trigger.close)
        self._vm.register_irqfd(trigger.fileno(), gsi)
        self._teardown.callback(self._unregister, trigger, gsi)
        return trigger

    def _unregister(self, trigger: EventFdTrigger, gsi: int) -> None:
        self._vm.unregister_irqfd(trigger.fileno(), gsi)


def _allocator(memory: MemoryManager) -> SystemAllocator:
    """Return the machine's map with everything in it that no device may be given."""
    above = layout.GAP_END + memory.above_gap
    allocator = SystemAllocator(
        [(region.start_addr, region.size) for region in memory.memory.regions],
        platform_mmio=Range(layout.PLATFORM_MMIO_START, layout.PLATFORM_MMIO_END - 1),
        pci_mmio32=Range(layout.PCI_MMIO32_START, layout.PCI_MMIO32_END - 1),
        pci_mmio64=Range.sized(above, layout.PCI_MMIO64_SIZE),
    )
    for start, size, owner in layout.FIXED_MMIO:
        allocator.physical.reserve(Range.sized(start, size), owner)
    allocator.gsis.reserve(_RTC_GSI)
    return allocator
