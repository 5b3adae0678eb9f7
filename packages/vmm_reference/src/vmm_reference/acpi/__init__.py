"""ACPI tables: what stock kernels need to know about a machine that has no firmware.

`build_tables` turns an `AcpiConfig` into one blob that a VMM writes to guest memory: RSDP first,
then DSDT, FADT, MADT, MCFG, what the caller adds, and the XSDT. The tables describe a
hardware-reduced ACPI platform (ACPI 6.3 §4.1): no PM1 registers, no 8259 and 8254 to fall back on,
sleep and reset through registers of their own.

`aml` encodes ACPI Machine Language, `resources` what devices occupy; both serve anyone who adds a
device to the DSDT through `AcpiConfig.extra_devices`.
"""

from __future__ import annotations

from vmm_reference.acpi.build import AcpiTables, AcpiTooLarge, build_tables
from vmm_reference.acpi.config import (
    AcpiConfig,
    InterruptOverride,
    IoApic,
    SerialPort,
    VirtioMmio,
)
from vmm_reference.acpi.pci import PciHost

__all__ = [
    "AcpiConfig",
    "AcpiTables",
    "AcpiTooLarge",
    "InterruptOverride",
    "IoApic",
    "PciHost",
    "SerialPort",
    "VirtioMmio",
    "build_tables",
]
