"""The DSDT: the devices that a kernel cannot discover by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm_reference.acpi import aml, pci, resources
from vmm_reference.acpi.tables import table
from vmm_reference.legacy import cmos, pvpanic, serial, sleep

if TYPE_CHECKING:
    from vmm_reference.acpi.aml import Term
    from vmm_reference.acpi.config import AcpiConfig

_REVISION = 2  # integers have 64 bits
_4_GIB = 1 << 32


def dsdt(config: AcpiConfig) -> bytes:
    """The differentiated description table (ACPI 6.3 §5.2.11.1)."""
    devices = [_serial_port(*port) for port in config.serial_ports]
    if config.rtc_port is not None:
        devices.append(_io_device("RTC0", aml.eisa_id("PNP0B00"), config.rtc_port, cmos.SIZE))
    if config.pvpanic_port is not None:
        devices.append(
            _io_device("PEVT", aml.string("QEMU0001"), config.pvpanic_port, pvpanic.SIZE)
        )
    devices.append(_io_device("MBRD", aml.eisa_id("PNP0C02"), config.sleep_port, sleep.SIZE))
    devices.extend(_virtio_mmio(uid, *entry) for uid, entry in enumerate(config.virtio_mmio))
    if config.pci is not None:
        devices.extend(pci.host_bridge(config.pci))
    body = aml.scope("\\_SB", *devices, *config.extra_devices) + _soft_off()
    return table(b"DSDT", _REVISION, body)


def _soft_off() -> Term:
    """What to write to the sleep control register for S5 (§7.4.2.6); no other state exists."""
    sleep_type = aml.integer(sleep.S5_SLEEP_TYPE)
    zero = aml.integer(0)
    return aml.name("\\_S5", aml.package(sleep_type, sleep_type, zero, zero))


def _serial_port(uid: int, io_base: int, irq: int) -> Term:
    """A 16550. On hardware-reduced platforms Linux gives it no interrupt unless it stands here."""
    return aml.device(
        f"COM{uid}",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(uid)),
        aml.name(
            "_CRS",
            resources.resource_template(
                resources.io(io_base, serial.SIZE), resources.interrupt(irq)
            ),
        ),
    )


def _io_device(name: str, hardware_id: Term, base: int, size: int) -> Term:
    """A device that has nothing but I/O ports."""
    return aml.device(
        name,
        aml.name("_HID", hardware_id),
        aml.name("_CRS", resources.resource_template(resources.io(base, size))),
    )


def _virtio_mmio(uid: int, address: int, size: int, gsi: int) -> Term:
    """A virtio-mmio transport, by the id that Linux's driver binds to."""
    memory = (
        resources.memory32_fixed(address, size)
        if address + size <= _4_GIB
        else resources.qword_memory(address, size)
    )
    return aml.device(
        f"V{uid:03X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(uid)),
        aml.name("_CCA", aml.integer(1)),  # the device sees memory as the processors do
        aml.name("_CRS", resources.resource_template(memory, resources.interrupt(gsi))),
    )
