"""The PCI host bridge as ACPI has it: a device in the DSDT, and the MCFG.

Sources: ACPI 6.3 §6.2.13 (_PRT), §6.5.5 (_BBN), §6.5.6 (_SEG); PCI Firmware 3.2 §4.1.2 (MCFG).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmm_reference.acpi import aml, resources
from vmm_reference.acpi.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm_reference.acpi.aml import Term

_CONFIGURATION_PORTS, _CONFIGURATION_PORTS_SIZE = 0xCF8, 8
_ECAM_SIZE = 1 << 20  # of one bus
_ALL_FUNCTIONS = 0xFFFF


@dataclass(frozen=True, slots=True)
class PciHost:
    """A host bridge with one bus, number 0 of segment 0.

    Attributes:
        ecam: guest physical address of the bus's configuration spaces.
        memory32: (address, size) of the window below 4 GiB for functions' memory.
        memory64: (address, size) of the window above.
        routes: (slot, pin, GSI) of the interrupt pins; pin 1 is INTA#.
    """

    ecam: int
    memory32: tuple[int, int]
    memory64: tuple[int, int]
    routes: Sequence[tuple[int, int, int]]


def mcfg(host: PciHost) -> bytes:
    """Where the configuration spaces are in memory."""
    first_bus = last_bus = segment = 0
    entry = struct.pack("<QHBBI", host.ecam, segment, first_bus, last_bus, 0)
    return table(b"MCFG", 1, bytes(8) + entry)


def host_bridge(host: PciHost) -> list[Term]:
    """The bridge, and a device that keeps the ECAM free, as the MCFG's text wants it."""
    bridge = aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A08")),
        aml.name("_CID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_SEG", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name(
            "_CRS",
            resources.resource_template(
                resources.word_bus_number(0, 1),
                resources.io(_CONFIGURATION_PORTS, _CONFIGURATION_PORTS_SIZE),
                resources.dword_memory(*host.memory32, producer=True),
                resources.qword_memory(*host.memory64, producer=True),
            ),
        ),
        aml.name("_PRT", aml.package(*(_route(*route) for route in host.routes))),
    )
    reservation = aml.device(
        "ECAM",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name("_UID", aml.integer(1)),
        aml.name(
            "_CRS", resources.resource_template(resources.memory32_fixed(host.ecam, _ECAM_SIZE))
        ),
    )
    return [bridge, reservation]


def _route(slot: int, pin: int, gsi: int) -> Term:
    """A pin that is wired to a line, without a link device between."""
    address = slot << 16 | _ALL_FUNCTIONS
    return aml.package(aml.integer(address), aml.integer(pin - 1), aml.integer(0), aml.integer(gsi))
