"""The static tables: RSDP, XSDT, FADT and MADT (ACPI 6.3 §5.2)."""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final

from vmm_reference.legacy import sleep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm_reference.acpi.config import AcpiConfig

OEM_ID: Final = b"PYVMM "
OEM_TABLE_ID: Final = b"PYVMMREF"
_CREATOR_ID = b"PYVM"
_REVISION = 1  # of our tables and of their creator

RSDP_SIZE: Final = 36
_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_GENERIC_ADDRESS = struct.Struct("<BBBBQ")
_SYSTEM_IO, _BYTE_ACCESS = 1, 1

_FADT_SIZE, _FADT_REVISION, _FADT_MINOR_VERSION = 276, 6, 3
_CMOS_CENTURY = 0x32

_MADT_REVISION = 5
_APIC_ENABLED = 1
_ALL_PROCESSORS = 0xFF
_FIRST_X2APIC_ID = 0xFF  # xAPIC ids have 8 bits, of which 0xff means all


class FadtFlags(enum.IntFlag):
    """Fixed feature flags (table 5-35)."""

    WBINVD = 1 << 0
    PROC_C1 = 1 << 2
    POWER_BUTTON_NOT_FIXED = 1 << 4
    SLEEP_BUTTON_NOT_FIXED = 1 << 5
    RTC_WAKE_NOT_FIXED = 1 << 6
    RESET_REGISTER = 1 << 10
    HARDWARE_REDUCED = 1 << 20


class BootArchitecture(enum.IntFlag):
    """IA-PC boot architecture flags (table 5-36): what the guest need not probe for."""

    LEGACY_DEVICES = 1 << 0
    KEYBOARD_CONTROLLER = 1 << 1
    NO_VGA = 1 << 2
    NO_RTC = 1 << 5


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes a multiple of 256."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: header (§5.2.6), then `body`, with its checksum."""
    header = _HEADER.pack(
        signature,
        _HEADER.size + len(body),
        revision,
        0,
        OEM_ID,
        OEM_TABLE_ID,
        _REVISION,
        _CREATOR_ID,
        _REVISION,
    )
    data = bytearray(header + body)
    data[9] = checksum(data)
    return bytes(data)


def rsdp(xsdt_address: int) -> bytes:
    """The root pointer, revision 2 (§5.2.5.3). It has no RSDT."""
    data = bytearray(
        struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, 0, RSDP_SIZE, xsdt_address, 0)
    )
    data[8] = checksum(data[:20])
    data[32] = checksum(data)
    return bytes(data)


def xsdt(addresses: Sequence[int]) -> bytes:
    """The list of all tables but the DSDT (§5.2.8)."""
    return table(b"XSDT", 1, struct.pack(f"<{len(addresses)}Q", *addresses))


def fadt(config: AcpiConfig, dsdt_address: int) -> bytes:
    """The fixed description table of a hardware-reduced platform (§5.2.9).

    The guest may take the power, sleep and wake-up hardware that is not declared for absent. The
    ports 0x60 and 0x64 exist, but only to reset by; saying that there is no keyboard controller
    spares the guest a probe, and Linux's ``reboot=k`` does not ask.
    """
    flags = (
        FadtFlags.WBINVD
        | FadtFlags.PROC_C1
        | FadtFlags.POWER_BUTTON_NOT_FIXED
        | FadtFlags.SLEEP_BUTTON_NOT_FIXED
        | FadtFlags.RTC_WAKE_NOT_FIXED
        | FadtFlags.RESET_REGISTER
        | FadtFlags.HARDWARE_REDUCED
    )
    boot = BootArchitecture.NO_VGA
    if config.serial_ports:
        boot |= BootArchitecture.LEGACY_DEVICES
    if config.rtc_port is None:
        boot |= BootArchitecture.NO_RTC
    data = bytearray(_FADT_SIZE)
    _HEADER.pack_into(
        data,
        0,
        b"FACP",
        _FADT_SIZE,
        _FADT_REVISION,
        0,
        OEM_ID,
        OEM_TABLE_ID,
        _REVISION,
        _CREATOR_ID,
        _REVISION,
    )
    data[108] = 0 if config.rtc_port is None else _CMOS_CENTURY
    struct.pack_into("<H", data, 109, boot)
    struct.pack_into("<I", data, 112, flags)
    data[116:128] = _port_register(config.sleep_port + sleep.RESET)
    data[128] = sleep.RESET_VALUE
    data[131] = _FADT_MINOR_VERSION
    struct.pack_into("<Q", data, 140, dsdt_address)
    data[244:256] = _port_register(config.sleep_port + sleep.CONTROL)
    data[256:268] = _port_register(config.sleep_port + sleep.STATUS)
    struct.pack_into("<8s", data, 268, OEM_ID.strip())  # hypervisor vendor identity
    data[9] = checksum(data)
    return bytes(data)


def _port_register(port: int) -> bytes:
    """A generic address structure (§5.2.3.2) for a byte-wide I/O port."""
    return _GENERIC_ADDRESS.pack(_SYSTEM_IO, 8, 0, _BYTE_ACCESS, port)


def madt(config: AcpiConfig) -> bytes:
    """The interrupt controllers (§5.2.12): a local APIC per processor and one IOAPIC.

    Its flags are clear: the platform has no 8259s that the guest would have to silence.
    """
    entries = [_local_apic(uid, apic_id) for uid, apic_id in enumerate(config.cpu_apic_ids)]
    ioapic_id, address, gsi_base = config.ioapic
    entries.append(struct.pack("<BBBxII", 1, 12, ioapic_id, address, gsi_base))
    for irq, gsi in config.interrupt_overrides:
        edge_active_high = 0b0101
        entries.append(struct.pack("<BBBBIH", 2, 10, 0, irq, gsi, edge_active_high))
    entries.append(struct.pack("<BBBHB", 4, 6, _ALL_PROCESSORS, 0, 1))  # NMI at every LINT1
    body = struct.pack("<II", config.local_apic_address, 0) + b"".join(entries)
    return table(b"APIC", _MADT_REVISION, body)


def _local_apic(uid: int, apic_id: int) -> bytes:
    if apic_id < _FIRST_X2APIC_ID and uid < _ALL_PROCESSORS:
        return struct.pack("<BBBBI", 0, 8, uid, apic_id, _APIC_ENABLED)
    return struct.pack("<BBxxIII", 9, 16, apic_id, _APIC_ENABLED, uid)
