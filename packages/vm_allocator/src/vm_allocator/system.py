"""The platform of a virtual machine: memory map, I/O ports and interrupt lines.

RAM, fixed devices and everything allocated later live in one ordered map of the guest
physical address space. The MMIO windows only say where to look for room, so nothing can
overlap RAM, even if a window is drawn over it. Which addresses a platform uses is the
caller's knowledge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vm_allocator import _records
from vm_allocator.address import AddressAllocator
from vm_allocator.errors import InvalidState, OutOfRange
from vm_allocator.gsis import GsiAllocator
from vm_allocator.policy import FirstMatch
from vm_allocator.ranges import Allocation, Range, check_range
from vm_allocator.states import SystemState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final, Self

    from vm_allocator.policy import Policy

#: The smallest unit of MMIO that a guest can map on its own.
PAGE_SIZE = 0x1000
#: The owner of guest memory in `SystemAllocator.physical`.
RAM: Final = "RAM"

_BELOW_4_GIB = Range(0, (1 << 32) - 1)


class PlatformMap(NamedTuple):
    """What a guest must be told of its platform, for e820, ACPI or device trees to be made from.

    Everything is in address order. A record does not change when its allocator does.

    Attributes:
        ram: memory: e820 type 1, `memory` nodes.
        devices: everything else in use of the physical space.
        platform_mmio: the window for devices that are not on PCI.
        pci_mmio32: what a PCI host bridge decodes below 4 GiB: the window without RAM.
        pci_mmio64: the same of the 64-bit window.
        ports: I/O ports in use.
        gsis: interrupt pins and MSI routes in use.
    """

    ram: tuple[Range, ...]
    devices: tuple[Allocation, ...]
    platform_mmio: Range
    pci_mmio32: tuple[Range, ...]
    pci_mmio64: tuple[Range, ...]
    ports: tuple[Allocation, ...]
    gsis: tuple[int, ...]


class SystemAllocator:
    """Everything that devices of one virtual machine can be given.

    Not safe to use from two threads at once: the owner of the allocator locks.

    Attributes:
        physical: the guest physical address space; RAM is in it from the start. Use its
            `reserve` for fixed devices and its `free` for every MMIO range.
        pio: the I/O ports.
        gsis: the interrupt lines.
        platform_mmio: window for devices that are not on PCI, below 4 GiB.
        pci_mmio32: window for 32-bit PCI BARs, below 4 GiB.
        pci_mmio64: window for 64-bit PCI BARs.

    Raises:
        OutOfRange: a window that must end below 4 GiB does not.
        InvalidSize, InvalidRange: a piece of RAM is none.
        Overlap: two ranges of RAM share an address.
        TypeError: a window is no `Range`, or a number is none.
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
        for window in (platform_mmio, pci_mmio32):
            if not _BELOW_4_GIB.contains(check_range(window)):
                raise OutOfRange(window.start, window.end, _BELOW_4_GIB)
        check_range(pci_mmio64)
        self.platform_mmio = platform_mmio
        self.pci_mmio32 = pci_mmio32
        self.pci_mmio64 = pci_mmio64
        self.physical = AddressAllocator(0, 1 << 64)
        self.pio = AddressAllocator(0, 1 << 16)
        self.gsis = GsiAllocator() if gsis is None else gsis
        for start, size in ram:
            self.physical.reserve(Range.sized(start, size), RAM)

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

    def platform_map(self) -> PlatformMap:
        """What the guest must be told, as of now."""
        used = self.physical.used()
        ram = tuple(one.range for one in used if one.owner == RAM)
        return PlatformMap(
            ram=ram,
            devices=tuple(one for one in used if one.owner != RAM),
            platform_mmio=self.platform_mmio,
            pci_mmio32=tuple(_without(ram, self.pci_mmio32)),
            pci_mmio64=tuple(_without(ram, self.pci_mmio64)),
            ports=self.pio.used(),
            gsis=self.gsis.used(),
        )

    def save(self) -> SystemState:
        """All there is to know, for `restore`."""
        windows = (self.platform_mmio, self.pci_mmio32, self.pci_mmio64)
        ends = [(window.start, window.end) for window in windows]
        return SystemState(self.physical.save(), self.pio.save(), self.gsis.save(), *ends)

    @classmethod
    def restore(cls, state: SystemState) -> Self:
        """An allocator equal to the one that was saved.

        Raises:
            InvalidState: `state` has not the form of a record, or not these address spaces.
            AllocatorError: as `AddressAllocator.restore` and `IdAllocator.restore`, and
                OutOfRange as for a new one.
        """
        physical, pio, gsis, *windows = _records.fields(state, 6, "the state of a system")
        ranges = [Range(*_records.window(window)) for window in windows]
        allocator = cls(
            (),
            platform_mmio=ranges[0],
            pci_mmio32=ranges[1],
            pci_mmio64=ranges[2],
            gsis=GsiAllocator.restore(_records.gsi_state(gsis)),
        )
        allocator.physical = _restored(physical, allocator.physical.space)
        allocator.pio = _restored(pio, allocator.pio.space)
        return allocator

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SystemAllocator):
            return NotImplemented
        return self.save() == other.save()

    __hash__ = None  # type: ignore[assignment] # changes, so it cannot be a key

    def __copy__(self) -> Self:
        """An allocator of its own with the same in use."""
        return self.restore(self.save())

    def __repr__(self) -> str:
        return f"<SystemAllocator {self.physical!r} {self.pio!r} {self.gsis!r}>"

    def __str__(self) -> str:
        """Listings of the physical space and the ports, and the interrupt lines in use."""
        lines = ", ".join(map(str, self.gsis.used())) or "none"
        return f"memory\n{self.physical}\n\nports\n{self.pio}\n\ninterrupts in use: {lines}"


def _restored(record: object, space: Range) -> AddressAllocator:
    """The address space of a record; raises InvalidState if it is not `space`."""
    restored = AddressAllocator.restore(_records.address_state(record))
    if restored.space != space:
        raise InvalidState(str(restored.space), f"the space {space}")
    return restored


def _without(ram: Iterable[Range], window: Range) -> Iterator[Range]:
    """The pieces of a window that no range of `ram`, which is in order, has a part of."""
    start = window.start
    for one in ram:
        if one.overlaps(window):
            if start < one.start:
                yield Range(start, one.start - 1)
            start = one.end + 1
    if start <= window.end:
        yield Range(start, window.end)
