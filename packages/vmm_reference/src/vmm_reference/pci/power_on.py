"""What firmware does to a function at power-on: addresses for its BARs, a line for its pin.

There is no firmware here, and a kernel keeps what it finds assigned. Everything goes through the
configuration space, as it would in firmware, so any function can be set up.

Source: PCI Local Bus 3.0 §6.2.4 (interrupt line), §6.2.5.1 (sizing of BARs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm_allocator import NoFreeRange
from vmm_reference.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm_allocator import Range, SystemAllocator
    from vmm_reference.pci.function import PciFunction

_COMMAND, _BAR0, _INTERRUPT_LINE, _INTERRUPT_PIN = 0x04, 0x10, 0x3C, 0x3D
_BARS = 6
_COMMAND_MEMORY = 2
_IS_PORTS = 1
_TYPE, _TYPE_64_BIT = 0b110, 0b100
_MIN_ALIGNMENT = 0x1000  # so that two functions never share a page


def set_up(function: PciFunction, allocator: SystemAllocator, gsi: Callable[[int], int]) -> None:
    """Assign addresses to the memory BARs of a function, and enable its memory.

    Args:
        function: a function after reset, on no bus.
        allocator: where to find room; nothing stays taken.
        gsi: the interrupt line of a pin, 1 for INTA#.

    Raises:
        HostError: a window has no room left.
    """
    taken: list[Range] = []
    index = 0
    try:
        while index < _BARS:
            flags = _read(function, _BAR0 + 4 * index, 4)
            width = 8 if flags & (_IS_PORTS | _TYPE) == _TYPE_64_BIT else 4
            size = _size(function, index, width)
            if size:
                taken.append(_allocate(allocator, size, width))
                _write(function, _BAR0 + 4 * index, taken[-1].start, width)
            index += width // 4
    finally:
        for assigned in taken:
            allocator.free_mmio(assigned)
    if taken:
        _write(function, _COMMAND, _read(function, _COMMAND, 2) | _COMMAND_MEMORY, 2)
    pin = _read(function, _INTERRUPT_PIN, 1)
    if pin:
        _write(function, _INTERRUPT_LINE, gsi(pin), 1)


def _size(function: PciFunction, index: int, width: int) -> int:
    """Bytes of memory behind a BAR; 0 if there is none, or there are ports."""
    ones = (1 << 8 * width) - 1
    _write(function, _BAR0 + 4 * index, ones, width)
    value = _read(function, _BAR0 + 4 * index, width)
    _write(function, _BAR0 + 4 * index, 0, width)
    if not value or value & _IS_PORTS:
        return 0
    return (~value & ones | 0xF) + 1


def _allocate(allocator: SystemAllocator, size: int, width: int) -> Range:
    allocate = allocator.allocate_pci_mmio64 if width == 8 else allocator.allocate_pci_mmio32
    alignment = max(size, _MIN_ALIGNMENT)
    try:
        return allocate(alignment, alignment, owner="PCI BAR")
    except NoFreeRange as error:
        raise HostError(f"a PCI device does not fit: {error}") from error


def _read(function: PciFunction, offset: int, size: int) -> int:
    data = bytearray(size)
    function.read_config(offset, memoryview(data))
    return int.from_bytes(data, "little")


def _write(function: PciFunction, offset: int, value: int, size: int) -> None:
    function.write_config(offset, memoryview(bytearray(value.to_bytes(size, "little"))))
