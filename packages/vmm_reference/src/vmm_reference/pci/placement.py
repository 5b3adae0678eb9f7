"""Which function's memory answers where: the memory bus follows what the guest writes into BARs.

A guest may write any address. What it gets is decided here: memory answers only inside of the
windows that the host bridge passes on, and only where nothing else is. What cannot be placed
answers nowhere, until the guest moves it or the obstacle; what is placed stays until its own BAR
changes. The allocator holds what is placed, so that nothing else is given the same addresses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from vm_allocator import AllocatorError, Range
from vmm_reference.bus import BusOverlap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vm_allocator import SystemAllocator
    from vmm_reference.bus import Bus
    from vmm_reference.pci.function import PciFunction

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """A BAR's range as the guest wrote it."""

    base: int
    size: int


class Placement:
    """The PCI part of the memory bus; used by one thread at a time.

    Args:
        mmio: the memory bus.
        allocator: its windows for BARs, and everything that is in them.
    """

    def __init__(self, mmio: Bus, allocator: SystemAllocator) -> None:
        self._mmio = mmio
        self._allocator = allocator
        self._placed: dict[tuple[int, int], tuple[Place, PciFunction]] = {}

    def settle(self, functions: Mapping[int, PciFunction]) -> None:
        """Make the bus follow the BARs of all functions, given by their slots."""
        wanted = {
            (slot, index): (Place(*where), function)
            for slot, function in functions.items()
            for index, where in function.memory_ranges().items()
        }
        for key, placed in list(self._placed.items()):
            if wanted.get(key) != placed:
                self._withdraw(key)
        for key, (place, function) in wanted.items():
            if key not in self._placed:
                self._place(key, place, function)

    def _place(self, key: tuple[int, int], place: Place, function: PciFunction) -> None:
        wanted = Range.sized(*place)
        windows = (self._allocator.pci_mmio32, self._allocator.pci_mmio64)
        if not any(window.contains(wanted) for window in windows):
            return
        slot, index = key
        try:
            self._allocator.physical.reserve(wanted, f"PCI slot {slot} BAR {index}")
        except AllocatorError as error:
            logger.debug("BAR %d of PCI slot %d answers nowhere: %s", index, slot, error)
            return
        try:
            self._mmio.insert(place.base, place.size, function.bar(index))
        except BusOverlap as error:
            logger.debug("BAR %d of PCI slot %d answers nowhere: %s", index, slot, error)
            self._allocator.free_mmio(wanted)
            return
        self._placed[key] = (place, function)
        function.placed(index, place.base)

    def _withdraw(self, key: tuple[int, int]) -> None:
        place, function = self._placed.pop(key)
        function.placed(key[1], None)
        self._mmio.remove(place.base)
        self._allocator.free_mmio(Range.sized(*place))
