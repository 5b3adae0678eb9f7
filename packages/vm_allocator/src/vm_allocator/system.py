"""The platform of a virtual machine: memory map, I/O ports and interrupt lines.

RAM, fixed devices and everything allocated later live in one ordered map of the guest
physical address space. The MMIO windows only say where to look for room, so nothing can
overlap RAM, even if a window is drawn over it. Which addresses a platform uses is the
caller's knowledge.

What has the owner `RAM` is guest memory. It comes and goes through `physical` alone: no device is
given that name, and `free_mmio` takes no memory.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from vm_allocator import _records
from vm_allocator.address import AddressAllocator
from vm_allocator.errors import InvalidState, NotMmio, OutOfRange, Overlap, ReservedOwner
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
        pci_mmio32: what a PCI host bridge decodes below 4 GiB: the window without RAM and without
            what was reserved in it, which is not on PCI.
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
            `reserve` and `free` for fixed devices and for memory that is plugged or removed. What
            the calls below hand out goes back through `free_mmio`.
        pio: the I/O ports.
        gsis: the interrupt lines.
        platform_mmio: window for devices that are not on PCI, below 4 GiB.
        pci_mmio32: window for 32-bit PCI BARs, below 4 GiB.
        pci_mmio64: window for 64-bit PCI BARs.

    Raises:
        OutOfRange: a window that must end below 4 GiB does not.
        InvalidSize, InvalidRange: a piece of RAM is none.
        Overlap: two ranges of RAM, or two windows, share an address.
        TypeError: a window is no `Range`, or a number is none.
    """

    # `_bars`: first addresses of what was allocated in the PCI windows.
    __slots__ = ("_bars", "gsis", "pci_mmio32", "pci_mmio64", "physical", "pio", "platform_mmio")

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
        _check_windows(platform_mmio, pci_mmio32, pci_mmio64)
        self.platform_mmio = platform_mmio
        self.pci_mmio32 = pci_mmio32
        self.pci_mmio64 = pci_mmio64
        self.physical = AddressAllocator(0, 1 << 64)
        self.pio = AddressAllocator(0, 1 << 16)
        self.gsis = GsiAllocator() if gsis is None else gsis
        self._bars: set[int] = set()
        for start, size in ram:
            self.physical.reserve(Range.sized(start, size), RAM)

    def allocate_platform_mmio(
        self, size: int, alignment: int = PAGE_SIZE, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """MMIO for a device that is not on PCI; raises as `AddressAllocator.allocate`.

        This, and all that follow, raise ReservedOwner if `owner` is `RAM`.
        """
        return self._allocate_mmio(self.platform_mmio, size, alignment, policy, owner)

    def allocate_pci_mmio32(
        self, size: int, alignment: int = PAGE_SIZE, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """MMIO for a 32-bit BAR; raises as `AddressAllocator.allocate`."""
        return self._allocate_bar(self.pci_mmio32, size, alignment, policy, owner)

    def allocate_pci_mmio64(
        self, size: int, alignment: int = PAGE_SIZE, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """MMIO for a 64-bit BAR; raises as `AddressAllocator.allocate`."""
        return self._allocate_bar(self.pci_mmio64, size, alignment, policy, owner)

    def _allocate_bar(
        self, window: Range, size: int, alignment: int, policy: Policy, owner: str
    ) -> Range:
        bar = self._allocate_mmio(window, size, alignment, policy, owner)
        self._bars.add(bar.start)
        return bar

    def _allocate_mmio(
        self, window: Range, size: int, alignment: int, policy: Policy, owner: str
    ) -> Range:
        _check_owner(owner)
        return self.physical.allocate(size, alignment, policy, owner=owner, within=window)

    def free_mmio(self, range: Range) -> None:  # noqa: A002 - the plain word
        """Give an MMIO range back; raises as `AddressAllocator.free`.

        Raises:
            NotMmio: it touches RAM, or is not inside one of the three windows.
        """
        found = self.physical.find(check_range(range).start)
        if found is not None and found.owner == RAM:
            raise NotMmio(range, found)
        windows = (self.platform_mmio, self.pci_mmio32, self.pci_mmio64)
        if not any(window.contains(range) for window in windows):
            raise NotMmio(range, None)
        self.physical.free(range)
        self._bars.discard(range.start)

    def allocate_pio(
        self, size: int, alignment: int = 1, policy: Policy = FirstMatch, *, owner: str = ""
    ) -> Range:
        """I/O ports; raises as `AddressAllocator.allocate`."""
        _check_owner(owner)
        return self.pio.allocate(size, alignment, policy, owner=owner)

    def free_pio(self, range: Range) -> None:  # noqa: A002 - the plain word
        """Give I/O ports back; raises as `AddressAllocator.free`."""
        self.pio.free(range)

    def platform_map(self) -> PlatformMap:
        """What the guest must be told, as of now."""
        used = self.physical.used()
        ram = tuple(one.range for one in used if one.owner == RAM)
        not_pci = [one.range for one in used if not self._is_bar(one)]
        return PlatformMap(
            ram=ram,
            devices=tuple(one for one in used if one.owner != RAM),
            platform_mmio=self.platform_mmio,
            pci_mmio32=tuple(_without(not_pci, self.pci_mmio32)),
            pci_mmio64=tuple(_without(not_pci, self.pci_mmio64)),
            ports=self.pio.used(),
            gsis=self.gsis.used(),
        )

    def _is_bar(self, used: Allocation) -> bool:
        """Whether it is known as a BAR, and can be one: `physical` is open to all."""
        windows = (self.pci_mmio32, self.pci_mmio64)
        return (
            used.range.start in self._bars
            and used.owner != RAM
            and any(window.contains(used.range) for window in windows)
        )

    def save(self) -> SystemState:
        """All there is to know, for `restore`."""
        return SystemState(
            physical=self.physical.save(),
            pio=self.pio.save(),
            gsis=self.gsis.save(),
            platform_mmio=(self.platform_mmio.start, self.platform_mmio.end),
            pci_mmio32=(self.pci_mmio32.start, self.pci_mmio32.end),
            pci_mmio64=(self.pci_mmio64.start, self.pci_mmio64.end),
            bars=tuple(used.range.start for used in self.physical if self._is_bar(used)),
        )

    @classmethod
    def restore(cls, state: SystemState) -> Self:
        """An allocator equal to the one that was saved.

        Raises:
            InvalidState: `state` has not the form of a record, not these address spaces, or BARs
                where none can be.
            AllocatorError: as `AddressAllocator.restore` and `IdAllocator.restore`, and
                OutOfRange and Overlap as for a new one.
        """
        physical, pio, gsis, *windows, bars = _records.fields(state, 7, "the state of a system")
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
        known = _records.numbers(bars)
        allocator._bars.update(known)
        if allocator.save().bars != known:
            raise InvalidState(bars, "the first addresses of BARs in use")
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


def _check_windows(platform_mmio: Range, pci_mmio32: Range, pci_mmio64: Range) -> None:
    for window in (platform_mmio, pci_mmio32):
        if not _BELOW_4_GIB.contains(check_range(window)):
            raise OutOfRange(window.start, window.end, _BELOW_4_GIB)
    windows = [
        Allocation(platform_mmio, "platform_mmio"),
        Allocation(pci_mmio32, "pci_mmio32"),
        Allocation(check_range(pci_mmio64), "pci_mmio64"),
    ]
    for one, other in combinations(windows, 2):
        if one.range.overlaps(other.range):
            raise Overlap(one.range, other)


def _check_owner(owner: str) -> None:
    if owner == RAM:
        raise ReservedOwner(owner)


def _restored(record: object, space: Range) -> AddressAllocator:
    """The address space of a record; raises InvalidState if it is not `space`."""
    restored = AddressAllocator.restore(_records.address_state(record))
    if restored.space != space:
        raise InvalidState(str(restored.space), f"the space {space}")
    return restored


def _without(taken: Iterable[Range], window: Range) -> Iterator[Range]:
    """The pieces of a window that no range of `taken`, which is in order, has a part of."""
    start = window.start
    for one in taken:
        if one.overlaps(window):
            if start < one.start:
                yield Range(start, one.start - 1)
            start = one.end + 1
    if start <= window.end:
        yield Range(start, window.end)
