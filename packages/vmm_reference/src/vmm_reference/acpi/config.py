"""What `build_tables` has to know about the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vmm_reference.legacy import pvpanic, serial, sleep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm_reference.acpi.aml import Term
    from vmm_reference.acpi.pci import PciHost


class SerialPort(NamedTuple):
    """A 16550 serial port: its number (COM1 is 1), first I/O port, and interrupt line (GSI)."""

    uid: int
    io_base: int
    irq: int


class IoApic(NamedTuple):
    """An IOAPIC: its id, address, and the GSI of its first input."""

    id: int
    address: int
    gsi_base: int


class InterruptOverride(NamedTuple):
    """ISA interrupt `irq` arrives at `gsi` (edge-triggered, active high)."""

    irq: int
    gsi: int


class VirtioMmio(NamedTuple):
    """A virtio-mmio transport: address, size in bytes, and interrupt line (GSI)."""

    address: int
    size: int
    gsi: int


def _standard_serial_ports() -> Sequence[tuple[int, int, int]]:
    return [SerialPort(*port) for port in serial.COM_PORTS]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiConfig:
    r"""The machine as its ACPI tables describe it. Plain tuples do where named ones are meant.

    Attributes:
        base: guest physical address of the blob; between 0xe0000 and 1 MiB kernels find the RSDP
            by scanning, too.
        cpu_apic_ids: local APIC ids, boot processor first.
        local_apic_address: where every processor sees its local APIC.
        ioapic: the IOAPIC.
        interrupt_overrides: ISA interrupts that do not arrive at the GSI of their number.
        serial_ports: the serial ports that exist.
        sleep_port: first port of `vmm_reference.legacy.sleep.SleepControl`.
        pvpanic_port: port of `vmm_reference.legacy.pvpanic.Pvpanic`, if there is one.
        rtc_port: first port of `vmm_reference.legacy.cmos.Cmos`, if there is one.
        virtio_mmio: virtio-mmio transports, in the order in which the guest shall find them.
        pci: the PCI bus, if there is one.
        extra_devices: more terms for the scope ``\_SB``.
        extra_tables: more tables for the XSDT, complete with header and checksum.
    """

    base: int = 0xE0000
    cpu_apic_ids: Sequence[int] = (0,)
    local_apic_address: int = 0xFEE0_0000
    ioapic: tuple[int, int, int] = IoApic(0, 0xFEC0_0000, 0)
    interrupt_overrides: Sequence[tuple[int, int]] = ()
    serial_ports: Sequence[tuple[int, int, int]] = field(default_factory=_standard_serial_ports)
    sleep_port: int = sleep.BASE
    pvpanic_port: int | None = pvpanic.BASE
    rtc_port: int | None = 0x70
    virtio_mmio: Sequence[tuple[int, int, int]] = ()
    pci: PciHost | None = None
    extra_devices: Sequence[Term] = ()
    extra_tables: Sequence[bytes] = ()
