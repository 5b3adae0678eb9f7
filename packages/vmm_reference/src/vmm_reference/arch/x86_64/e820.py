"""The memory map that the guest is told."""

from __future__ import annotations

from linux_loader import E820Entry, E820Type
from vmm_reference.arch.x86_64 import layout


def e820_map(memory_size: int) -> list[E820Entry]:
    """Return the map of a machine with `memory_size` bytes of memory, in ascending order.

    Low memory ends where a PC's extended BIOS data would start; from there to 1 MiB is reserved,
    since the ACPI tables are in it. The PCI configuration spaces are reserved, which a kernel wants
    to see before it uses them, and KVM's own pages, so that no device is ever put there.
    """
    ranges = layout.memory_ranges(memory_size)
    reserved_low = layout.HIGH_RAM_START - layout.LOW_RAM_END
    entries = [
        E820Entry(0, layout.LOW_RAM_END, E820Type.RAM),
        E820Entry(layout.LOW_RAM_END, reserved_low, E820Type.RESERVED),
        E820Entry(layout.HIGH_RAM_START, ranges[0][1] - layout.HIGH_RAM_START, E820Type.RAM),
        E820Entry(layout.PCI_ECAM_START, layout.PCI_ECAM_SIZE, E820Type.RESERVED),
        E820Entry(layout.KVM_IDENTITY_MAP_ADDRESS, layout.KVM_RESERVED_SIZE, E820Type.RESERVED),
    ]
    entries += [E820Entry(start, size, E820Type.RAM) for start, size in ranges[1:]]
    return entries
