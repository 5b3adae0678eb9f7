"""The interrupt lines of one virtual machine, by their global numbers."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from vm_allocator import _records
from vm_allocator.errors import OutOfRange
from vm_allocator.ids import IdAllocator
from vm_allocator.ranges import Range
from vm_allocator.states import GsiState

if TYPE_CHECKING:
    from typing import Self


class GsiAllocator:
    """Global system interrupts: first the pins of the IOAPIC, behind them GSIs for MSI routes.

    Pins below `first_pin` belong to legacy devices. KVM routes GSIs below 4096
    (KVM_MAX_IRQ_ROUTES, <linux/kvm_host.h>).

    Not safe to use from two threads at once: the owner of the allocator locks.

    Attributes:
        pins: the pins, each free or in use.
        msi: the GSIs behind them.

    Raises:
        InvalidRange: the pins or the GSIs behind them end before they begin.
    """

    __slots__ = ("msi", "pins")

    def __init__(self, first_pin: int = 5, last_pin: int = 23, last_gsi: int = 4095) -> None:
        self.pins = IdAllocator(first_pin, last_pin)
        self.msi = IdAllocator(last_pin + 1, last_gsi)

    def allocate_pin(self) -> int:
        """The lowest free pin; raises NoFreeId."""
        return self.pins.allocate()

    def allocate_msi(self) -> int:
        """The lowest free GSI behind the pins; raises NoFreeId."""
        return self.msi.allocate()

    def reserve(self, gsi: int) -> None:
        """Take exactly `gsi`; raises OutOfRange, IdInUse."""
        self._allocator_of(gsi).reserve(gsi)

    def free(self, gsi: int) -> None:
        """Give `gsi` back; raises OutOfRange, NeverAllocated, AlreadyReleased."""
        self._allocator_of(gsi).free(gsi)

    def used(self) -> tuple[int, ...]:
        """All pins and GSIs in use, in order."""
        return self.pins.used() + self.msi.used()

    def _allocator_of(self, gsi: int) -> IdAllocator:
        gsi = index(gsi)
        if not self.pins.base <= gsi <= self.msi.end:
            raise OutOfRange(gsi, gsi, Range(self.pins.base, self.msi.end))
        return self.pins if gsi <= self.pins.end else self.msi

    def save(self) -> GsiState:
        """All there is to know, for `restore`."""
        return GsiState(self.pins.save(), self.msi.save())

    @classmethod
    def restore(cls, state: GsiState) -> Self:
        """An allocator equal to the one that was saved; raises as `IdAllocator.restore`."""
        pins, msi = _records.gsi_state(state)
        allocator = cls()
        allocator.pins = IdAllocator.restore(pins)
        allocator.msi = IdAllocator.restore(msi)
        return allocator

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GsiAllocator):
            return NotImplemented
        return self.save() == other.save()

    __hash__ = None  # type: ignore[assignment] # changes, so it cannot be a key

    def __copy__(self) -> Self:
        """An allocator of its own with the same lines in use and released."""
        return self.restore(self.save())

    def __repr__(self) -> str:
        return f"<GsiAllocator {self.pins!r} {self.msi!r}>"
