"""Bus 0: up to 32 slots, one function in each."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vmm_reference.errors import UsageError
from vmm_reference.pci import power_on
from vmm_reference.pci.placement import Placement

if TYPE_CHECKING:
    from vm_allocator import SystemAllocator
    from vmm_reference.bus import Bus
    from vmm_reference.pci.function import PciFunction

SLOTS = 32
PINS = 4


class PciBus:
    """The functions and the accesses to their configuration spaces.

    Args:
        mmio: the memory bus, on which the functions' memory appears.
        allocator: its windows for BARs. While functions come, go and move, nobody else may use
            it.
        first_gsi: the first of four interrupt lines that the functions' pins share.

    Any thread may call any method.
    """

    def __init__(self, mmio: Bus, allocator: SystemAllocator, first_gsi: int) -> None:
        self._allocator = allocator
        self._placement = Placement(mmio, allocator)
        self._first_gsi = first_gsi
        self._functions: dict[int, PciFunction] = {}
        self._lock = threading.Lock()

    def gsi(self, slot: int, pin: int) -> int:
        """The interrupt line of a slot's pin: neighbours begin with different ones.

        Args:
            slot: 0 to 31.
            pin: 1 for INTA# to 4 for INTD#.
        """
        return self._first_gsi + (slot + pin - 1) % PINS

    def free_slot(self) -> int:
        """The lowest slot without a function.

        Raises:
            UsageError: there is none.
        """
        for slot in range(SLOTS):
            if slot not in self._functions:
                return slot
        raise UsageError(f"a PCI bus has room for {SLOTS - 1} devices beside its host bridge")

    def attach(self, slot: int, function: PciFunction) -> None:
        """Put a function into a free slot and set it up as firmware does.

        Raises:
            HostError: its memory does not fit; the slot stays free.
            ValueError: the slot is taken, or none.
        """
        with self._lock:
            if not 0 <= slot < SLOTS or slot in self._functions:
                raise ValueError(f"PCI slot {slot} is not free")
            power_on.set_up(function, self._allocator, lambda pin: self.gsi(slot, pin))
            self._functions[slot] = function
            self._placement.settle(self._functions)

    def detach(self, slot: int) -> PciFunction:
        """Take a function off the bus and return it; its memory answers nowhere any more.

        Raises:
            KeyError: the slot is empty.
        """
        with self._lock:
            function = self._functions.pop(slot)
            self._placement.settle(self._functions)
            return function

    def slots(self) -> tuple[int, ...]:
        """The slots that have a function, in ascending order."""
        return tuple(sorted(self._functions))

    def read_config(self, devfn: int, offset: int, data: memoryview) -> None:
        """Fill `data` from a configuration space; ones where there is no function.

        Args:
            devfn: the slot times 8, plus the number of the function in it.
            offset: 0 to 4095.
            data: gets the bytes; what would reach beyond 4096 reads as ones altogether.
        """
        function = self._find(devfn, offset, len(data))
        if function is None:
            data[:] = b"\xff" * len(data)
        else:
            function.read_config(offset, data)

    def write_config(self, devfn: int, offset: int, data: memoryview) -> None:
        """Pass a guest's write on, and let the memory bus follow."""
        function = self._find(devfn, offset, len(data))
        if function is None:
            return
        with self._lock:
            function.write_config(offset, data)
            self._placement.settle(self._functions)

    def _find(self, devfn: int, offset: int, size: int) -> PciFunction | None:
        slot, number = divmod(devfn, 8)
        return self._functions.get(slot) if number == 0 and offset + size <= 0x1000 else None
