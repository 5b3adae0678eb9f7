"""The two ways in which a guest reaches configuration spaces.

Mechanism #1 (PCI Local Bus 3.0 §3.2.2.3.2): an address port and a data port. ECAM (PCI Express Base
5.0 §7.2.2): all configuration spaces in a range of memory, 4 KiB each. Both are devices on buses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm_reference.pci.bus import PciBus

PORTS_BASE, PORTS_SIZE = 0xCF8, 8

_DATA = 4
_ENABLE = 1 << 31
_ADDRESS_BITS = 0x80FF_FFFC  # the others are reserved and read as zero


class ConfigurationPorts:
    """CONFIG_ADDRESS at 0xcf8 and CONFIG_DATA at 0xcfc.

    Only a whole double word reaches the address. Everything else there, and data without the
    enable bit or for another bus than 0, is as if nobody answered.
    """

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus
        self._address = 0

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` from the address register or the function that it selects."""
        if offset == 0 and len(data) == 4:
            data[:] = self._address.to_bytes(4, "little")
        elif offset >= _DATA and (selected := self._selected()) is not None:
            self._bus.read_config(selected[0], selected[1] + offset - _DATA, data)
        else:
            data[:] = b"\xff" * len(data)

    def write(self, offset: int, data: memoryview) -> None:
        """Take an address, or pass data on to the function that it selects."""
        if offset == 0 and len(data) == 4:
            self._address = int.from_bytes(data, "little") & _ADDRESS_BITS
        elif offset >= _DATA and (selected := self._selected()) is not None:
            self._bus.write_config(selected[0], selected[1] + offset - _DATA, data)

    def _selected(self) -> tuple[int, int] | None:
        """(slot and function, offset), if a configuration space is selected."""
        address = self._address
        bus = address >> 16 & 0xFF
        return (address >> 8 & 0xFF, address & 0xFC) if address & _ENABLE and not bus else None


class Ecam:
    """The configuration spaces of bus 0 in memory: slot, function and offset are the address."""

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` from a configuration space."""
        self._bus.read_config(offset >> 12, offset & 0xFFF, data)

    def write(self, offset: int, data: memoryview) -> None:
        """Pass `data` on to a configuration space."""
        self._bus.write_config(offset >> 12, offset & 0xFFF, data)
