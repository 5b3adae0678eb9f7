"""A bus: which device answers at an address.

One instance serves port I/O, another memory-mapped I/O. Addresses and sizes are plain ``int``
(bytes). The bus knows where devices are and nothing of what they do; how an access reached it
(which exit, which vCPU) is not its business either.

An access belongs to a device only if it lies wholly inside the device's range. Everything else is
unclaimed: reads give all ones, as a bus with nobody driving it does, and writes vanish. (A zero
instead is expensive: a probe that reads "transmitter busy" from an absent serial port spins.)

Thread safety: any thread may read, write, insert and remove at any time. The table is replaced as
a whole, never changed in place, so accesses take no lock. The bus does not serialise accesses to
one device: a device that several vCPUs can reach guards its own state. An access that began
before `remove` returned may still end after it.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmm_reference.errors import VmmError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ONES = b"\xff" * 8


class Device(Protocol):
    """What sits on a bus.

    `offset` is relative to where the device was inserted; `data` is as long as the access (any
    size: a guest chooses it) and has format ``B``. Neither method raises because of what a guest
    did.
    """

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what the guest reads at `offset`."""

    def write(self, offset: int, data: memoryview) -> None:
        """Take what the guest wrote at `offset`."""


class BusRange(NamedTuple):
    """A device and the addresses that it answers: [`base`, `base` + `size`)."""

    base: int
    size: int
    device: Device


class BusError(VmmError):
    """The bus cannot be changed as asked."""


class BusRangeError(BusError):
    """A range that cannot be on this bus, or none where one was expected.

    Attributes:
        base: the range's first address.
        size: its size in bytes (0 where only a base was given).
    """

    def __init__(self, message: str, base: int, size: int = 0) -> None:
        super().__init__(message)
        self.base = base
        self.size = size


class BusOverlap(BusError):  # noqa: N818  # named for what happened, as the DESIGN page has it
    """Two devices would answer at the same address.

    Attributes:
        base: first address of the range that was refused.
        size: its size in bytes.
        existing: the range that is there already.
    """

    def __init__(self, bus: str, base: int, size: int, existing: BusRange) -> None:
        super().__init__(
            f"{bus}: {base:#x}..{base + size - 1:#x} overlaps "
            f"{existing.base:#x}..{existing.base + existing.size - 1:#x}"
        )
        self.base = base
        self.size = size
        self.existing = existing


# Bases, ends and devices of all ranges by ascending base, behind a guard that ends before every
# address, so that a lookup needs no test for "none below". Plain tuples, because a lookup is on the
# path of every exit.
_Table = tuple[tuple[int, ...], tuple[int, ...], tuple[Device, ...]]


class _Guard:
    """Holds the guard's place among the devices; no access is inside its range."""

    def read(self, offset: int, data: memoryview) -> None:
        """Never called."""

    def write(self, offset: int, data: memoryview) -> None:
        """Never called."""


def _tabulate(ranges: tuple[BusRange, ...]) -> _Table:
    return (
        (-1, *(entry.base for entry in ranges)),
        (-1, *(entry.base + entry.size for entry in ranges)),
        (_Guard(), *(entry.device for entry in ranges)),
    )


class Bus:
    """Maps addresses to devices.

    Args:
        name: what messages call this bus, e.g. ``"port I/O"``.
        size: how many addresses it has; 64 Ki for ports, 2**64 for memory.
    """

    def __init__(self, name: str, size: int = 1 << 64) -> None:
        self.name = name
        self.size = size
        self._change = threading.Lock()
        self._ranges: tuple[BusRange, ...] = ()
        self._table = _tabulate(())

    def insert(self, base: int, size: int, device: Device) -> None:
        """Let `device` answer at [`base`, `base` + `size`).

        Raises:
            BusOverlap: another device answers there already.
            BusRangeError: the range is empty or reaches outside the bus.
        """
        if size <= 0 or base < 0 or base + size > self.size:
            raise BusRangeError(
                f"{self.name}: no room for {size:#x} bytes at {base:#x}", base, size
            )
        with self._change:
            ranges = self._ranges
            index = bisect_right(self._table[0], base) - 1
            for neighbour in ranges[max(index - 1, 0) : index + 1]:
                if base < neighbour.base + neighbour.size and neighbour.base < base + size:
                    raise BusOverlap(self.name, base, size, neighbour)
            new = BusRange(base, size, device)
            self._replace((*ranges[:index], new, *ranges[index:]))

    def remove(self, base: int) -> Device:
        """Take the device that was inserted at `base` off the bus and return it.

        Raises:
            BusRangeError: no device begins at `base`.
        """
        with self._change:
            ranges = self._ranges
            index = bisect_right(self._table[0], base) - 2
            if index < 0 or ranges[index].base != base:
                raise BusRangeError(f"{self.name}: no device begins at {base:#x}", base)
            self._replace((*ranges[:index], *ranges[index + 1 :]))
            return ranges[index].device

    def _replace(self, ranges: tuple[BusRange, ...]) -> None:
        self._ranges = ranges
        self._table = _tabulate(ranges)

    def __iter__(self) -> Iterator[BusRange]:
        """The ranges in use, by ascending base."""
        return iter(self._ranges)

    def read(self, address: int, data: memoryview) -> bool:
        """Fill `data` from the device at `address`; ones and False if nobody claims it."""
        bases, ends, devices = self._table
        index = bisect_right(bases, address) - 1
        if address < address + len(data) <= ends[index]:
            devices[index].read(address - bases[index], data)
            return True
        size = len(data)
        data[:] = _ONES[:size] if size <= len(_ONES) else b"\xff" * size
        return False

    def write(self, address: int, data: memoryview) -> bool:
        """Give `data` to the device at `address`; nothing and False if nobody claims it."""
        bases, ends, devices = self._table
        index = bisect_right(bases, address) - 1
        if address < address + len(data) <= ends[index]:
            devices[index].write(address - bases[index], data)
            return True
        return False
