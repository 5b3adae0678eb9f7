"""Laying the tables out in guest memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmm_reference.acpi import pci, tables
from vmm_reference.acpi.dsdt import dsdt
from vmm_reference.errors import VmmError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmm_reference.acpi.config import AcpiConfig

_ALIGNMENT = 16
_MAX_SIZE = 0x20000  # 0xe0000 to 1 MiB


class AcpiTooLarge(VmmError):  # noqa: N818  # named for what happened
    """The tables do not fit below 1 MiB from where they are to begin.

    Attributes:
        size: the bytes that they need.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"the ACPI tables need {size} bytes, but there is room for {_MAX_SIZE}")
        self.size = size


@dataclass(frozen=True, slots=True)
class AcpiTables:
    """The tables, ready to be written to guest memory.

    Attributes:
        base: guest physical address at which to write `blob`.
        blob: all tables.
        addresses: guest physical address of each table, by signature; of several tables with one
            signature the first.
    """

    base: int
    blob: bytes
    addresses: Mapping[str, int]

    @property
    def rsdp_address(self) -> int:
        """Guest physical address of the root pointer, for the boot protocol."""
        return self.base

    def table(self, signature: str) -> bytes:
        """The bytes of a table, e.g. ``"DSDT"``.

        Raises:
            KeyError: there is none.
        """
        start = self.addresses[signature] - self.base
        size = int.from_bytes(self.blob[start + 4 : start + 8], "little")
        return self.blob[start : start + size]


def build_tables(config: AcpiConfig) -> AcpiTables:
    """Describe the machine.

    Raises:
        AcpiTooLarge: more devices than the space below 1 MiB can describe.
        AmlError: a device's range that no descriptor can express.
    """
    blob = bytearray(tables.RSDP_SIZE)
    addresses: dict[str, int] = {}

    def place(content: bytes) -> int:
        blob.extend(bytes(-len(blob) % _ALIGNMENT))
        address = config.base + len(blob)
        blob.extend(content)
        addresses.setdefault(content[:4].decode("ascii"), address)
        return address

    dsdt_address = place(dsdt(config))
    listed = [place(tables.fadt(config, dsdt_address)), place(tables.madt(config))]
    if config.pci is not None:
        listed.append(place(pci.mcfg(config.pci)))
    listed.extend(place(extra) for extra in config.extra_tables)
    xsdt_address = place(tables.xsdt(listed))
    blob[: tables.RSDP_SIZE] = tables.rsdp(xsdt_address)
    if len(blob) > _MAX_SIZE:
        raise AcpiTooLarge(len(blob))
    return AcpiTables(config.base, bytes(blob), addresses)
