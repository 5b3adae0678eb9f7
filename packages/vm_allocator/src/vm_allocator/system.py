"""The platform of a virtual machine: memory map, I/O ports and interrupt lines.

RAM, fixed devices and everything allocated later live in one ordered map of the guest
physical address space. The MMIO windows only say where to look for room, so nothing can
overlap RAM, even if a window is drawn over it. Which addresses a platform uses is the
caller's knowledge.
"""

from __future__ import annotations

from vm_allocator.address import AddressAllocator
from vm_allocator.errors import OutOfRange
from vm_allocator.ids import IdAllocator
from vm_allocator.policy import FirstMatch
from vm_allocator.ranges import Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vm_allocator.policy import Policy

#: The smallest unit of MMIO that a guest can map on its own.
PAGE_SIZE = 0x1000


class GsiAllocator:
    """Global system interrupts: first the pins of the IOAPIC, behind them GSIs for MSI routes.

    Pins below `first_pin` belong to legacy devices. KVM routes GSIs below 4096
    (KVM_MAX_IRQ_ROUTES, <linux/kvm_host.h>).
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

    def _allocator_of(self, gsi: int) -> IdAllocator:
        if not self.pins.base <= gsi <= self.msi.end:
            raise OutOfRange(gsi, gsi, Range(self.pins.base, self.msi.end))
        return self.pins if gsi <= self.pins.end else self.msi


class SystemAllocator:
    """Everything that devices of one virtual machine can be given.

    Not safe to change from two threads at once: the owner of the allocator locks.

    Attributes:
        physical: the guest physical address space; RAM is in it from the start. Use its
            `reserve` for fixed devices and its `free` for every MMIO range.
        pio: the I/O ports.
        gsis: the interrupt lines.
        platform_mmio: window for devices that are not on PCI.
        pci_mmio32: window for 32-bit PCI BARs.
        pci_mmio64: window for 64-bit PCI BARs.

    Raises:
        Overlap: two ranges of RAM share an address.
    """

    __slots__ = ("gsis", "pci_mmio32", "pci_mmio64", "physical", "pio", "platform_mmio")

    def __init__(
        self,
        ram: Iterable[tuple[int, int]],
        *,
        platform_mmio: Range,
        pci_mmio32: Range,
        pci_mmio64: Range,
        gsis: GsiAllocator | None = None,
    ) -> None:
        """Start with RAM at each (start, size) and 64 KiB of free I/O ports."""
        self.platform_mmio = platform_mmio
        self.pci_mmio32 = pci_mmio32
        self.pci_mmio64 = pci_mmio64
        self.physical = AddressAllocator(0, 1 << 64)
        self.pio = AddressAllocator(0, 1 << 16)
        self.gsis = GsiAllocator() if gsis is None else gsis
        for start, size in ram:
            self.physical.reserve(Range.sized(start, size), "RAM")

    def allocate_platform_mmio(
        self, size: int, alignment: int = PAGE_SIZE, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """MMIO for a device that is not on PCI; raises as `AddressAllocator.allocate`."""
        return self.physical.allocate(
            size, alignment, policy, owner=owner, within=self.platform_mmio
        )

    def allocate_pci_mmio32(
        self, size: int, alignment: int = PAGE_SIZE, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """MMIO for a 32-bit BAR; raises as `AddressAllocator.allocate`."""
        return self.physical.allocate(size, alignment, policy, owner=owner, within=self.pci_mmio32)

    def allocate_pci_mmio64(
        self, size: int, alignment: int = PAGE_SIZE, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """MMIO for a 64-bit BAR; raises as `AddressAllocator.allocate`."""
        return self.physical.allocate(size, alignment, policy, owner=owner, within=self.pci_mmio64)

    def free_mmio(self, range: Range) -> None:  # noqa: A002 - the plain word
        """Give an MMIO range back; raises as `AddressAllocator.free`."""
        self.physical.free(range)

    def allocate_pio(
        self, size: int, alignment: int = 1, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """I/O ports; raises as `AddressAllocator.allocate`."""
        return self.pio.allocate(size, alignment, policy, owner=owner)

    def free_pio(self, range: Range) -> None:  # noqa: A002 - the plain word
        """Give I/O ports back; raises as `AddressAllocator.free`."""
        self.pio.free(range)

    def __repr__(self) -> str:
        return f"<SystemAllocator {self.physical!r} {self.pio!r}>"
