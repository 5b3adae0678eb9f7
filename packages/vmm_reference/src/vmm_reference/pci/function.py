"""What a PCI function is to the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmm_reference.bus import Device


class PciFunction(Protocol):
    """A function with a configuration space and up to six ranges of memory.

    Neither access raises because of what a guest did, whatever its offset and width.
    """

    def read_config(self, offset: int, data: memoryview) -> None:
        """Fill `data` from the configuration space at `offset`, 0 to 4095."""

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take what the guest wrote into the configuration space at `offset`."""

    def memory_ranges(self) -> Mapping[int, tuple[int, int]]:
        """(address, size) of the memory that the function answers now, by the BAR's index.

        Empty while Memory Space is disabled. The bus asks after every write.
        """

    def bar(self, index: int) -> Device:
        """What is behind a BAR."""

    def placed(self, index: int, base: int | None) -> None:
        """The memory behind a BAR answers at `base` from now on; None: nowhere."""
