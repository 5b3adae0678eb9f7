"""The interrupt lines of one virtual machine, by their global numbers."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from vm_allocator import _records
from vm_allocator.errors import IdOutOfRange
from vm_allocator.ids import IdAllocator
from vm_allocator.ranges import Range
from vm_allocator.states import GsiState

if TYPE_CHECKING:
    from typing import Self


class GsiAllocator:
    """Global system interrupts: first the pins of the IOAPIC, behind them GSIs for MSI routes.

    Pins below `first_pin` belong to legacy devices: `reserve` takes them as any other, but
    `allocate_pin` hands out none of them. KVM routes GSIs below 4096 (KVM_MAX_IRQ_ROUTES,
    <linux/kvm_host.h>).

    Not safe to use from two threads at once: the owner of the allocator locks.

    Attributes:
        legacy: the pins from 0 to below `first_pin`; None if it is 0.
        pins: the pins from there on.
        msi: the GSIs behind them.

    Raises:
        InvalidIdRange: the pins or the GSIs behind them end before they begin.
    """

    __slots__ = ("legacy", "msi", "pins")

    def __init__(self, first_pin: int = 5, last_pin: int = 23, last_gsi: int = 4095) -> None:
        self.pins = IdAllocator(first_pin, last_pin)
        self.msi = IdAllocator(self.pins.end + 1, last_gsi)
        self.legacy = IdAllocator(0, self.pins.base - 1) if self.pins.base else None

    def allocate_pin(self) -> int:
        """The lowest free pin from the first one on; raises NoFreeId."""
        return self.pins.allocate()

    def allocate_msi(self) -> int:
        """The lowest free GSI behind the pins; raises NoFreeId."""
        return self.msi.allocate()

    def reserve(self, gsi: int) -> None:
        """Take exactly `gsi`; raises IdOutOfRange, IdInUse."""
        self._allocator_of(gsi).reserve(gsi)

    def free(self, gsi: int) -> None:
        """Give `gsi` back; raises IdOutOfRange, NeverAllocated, AlreadyReleased."""
        self._allocator_of(gsi).free(gsi)

    def used(self) -> tuple[int, ...]:
        """All pins and GSIs in use, in order."""
        legacy = self.legacy.used() if self.legacy is not None else ()
        return legacy + self.pins.used() + self.msi.used()

    def _allocator_of(self, gsi: int) -> IdAllocator:
        gsi = index(gsi)
        for ids in (self.legacy, self.pins, self.msi):
            if ids is not None and ids.base <= gsi <= ids.end:
                return ids
        raise IdOutOfRange(gsi, gsi, Range(0, self.msi.end))

    def save(self) -> GsiState:
        """All there is to know, for `restore`."""
        legacy = self.legacy.save() if self.legacy is not None else None
        return GsiState(legacy, self.pins.save(), self.msi.save())

    @classmethod
    def restore(cls, state: GsiState) -> Self:
        """An allocator equal to the one that was saved; raises as `IdAllocator.restore`."""
        legacy, pins, msi = _records.gsi_state(state)
        allocator = cls(pins.base, pins.end, msi.end)
        allocator.legacy = IdAllocator.restore(legacy) if legacy is not None else None
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
        return f"<GsiAllocator {self.legacy!r} {self.pins!r} {self.msi!r}>"
