"""What the allocators' `save` returns and `restore` takes: plain numbers and names.

Each record is a tuple with named fields. `restore` also takes the same as lists, as a record comes
back from JSON. It trusts nothing: what has not the form of a record is `InvalidState`, and every
range and identifier is taken as if a caller asked for it, so a bad one ends in the error that the
call would end in.
"""

from __future__ import annotations

from typing import NamedTuple


class AddressState(NamedTuple):
    """An `AddressAllocator`.

    Attributes:
        start: the first address of the space.
        end: the last one.
        used: first address, last address and owner of everything in use, in address order.
    """

    start: int
    end: int
    used: tuple[tuple[int, int, str], ...]


class IdState(NamedTuple):
    """An `IdAllocator`.

    Attributes:
        base: the lowest identifier.
        end: the highest one.
        used: those in use, in order.
        released: those that were in use and are not, in order.
    """

    base: int
    end: int
    used: tuple[int, ...]
    released: tuple[int, ...]


class GsiState(NamedTuple):
    """A `GsiAllocator`.

    Attributes:
        legacy: its pins for legacy devices; None if it has none.
        pins: its other interrupt pins.
        msi: its GSIs for MSI routes.
    """

    legacy: IdState | None
    pins: IdState
    msi: IdState


class SystemState(NamedTuple):
    """A `SystemAllocator`.

    Attributes:
        physical: the guest physical address space.
        pio: the I/O ports.
        gsis: the interrupt lines.
        platform_mmio: first and last address of the window.
        pci_mmio32: first and last address of the window.
        pci_mmio64: first and last address of the window.
        bars: first addresses of what was allocated in the PCI windows, in order.
    """

    physical: AddressState
    pio: AddressState
    gsis: GsiState
    platform_mmio: tuple[int, int]
    pci_mmio32: tuple[int, int]
    pci_mmio64: tuple[int, int]
    bars: tuple[int, ...]
