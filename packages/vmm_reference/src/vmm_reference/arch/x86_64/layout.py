"""Where things are in an x86-64 guest's physical address space.

All addresses are guest physical. The low addresses are those of Firecracker and cloud-hypervisor,
so that a guest or a tool that knows one knows this. Memory has a gap below 4 GiB, in which devices
live.

==================  ==========================================================================
0x0000_0500         GDT (four entries), then IDT at 0x520 (one empty entry)
0x0000_7000         zero page (``boot_params``)
0x0000_8ff0         top of the boot stack, growing down
0x0000_9000         page tables: PML4, PDPT at 0xa000, page directory at 0xb000
0x0002_0000         kernel command line
0x0009_fc00         end of low memory in the e820 map
0x000e_0000         ACPI tables, RSDP first
0x000f_fff0         real-mode reset vector (`reset_vector`)
0x0010_0000         high memory: the kernel, then everything else
0xc000_0000         end of memory below 4 GiB; start of the gap
0xfeb0_0000         configuration spaces of the PCI bus (ECAM)
0xfec0_0000         IOAPIC
0xfee0_0000         local APICs
0xfffb_c000         KVM's own: identity map page, then three pages of TSS
0x1_0000_0000       memory again, if there is more than 3 GiB
==================  ==========================================================================
"""

from __future__ import annotations

PAGE_SIZE = 0x1000
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

GDT_START = 0x500
IDT_START = 0x520
ZERO_PAGE_START = 0x7000
BOOT_STACK_POINTER = 0x8FF0
PML4_START = 0x9000
PDPT_START = 0xA000
PAGE_DIRECTORY_START = 0xB000
CMDLINE_START = 0x20000
CMDLINE_MAX_SIZE = 0x10000
LOW_RAM_END = 0x9FC00
ACPI_START = 0xE0000
ACPI_MAX_SIZE = 0x1FFF0
HIGH_RAM_START = 0x100000

GAP_START = 3 * GIB
GAP_END = 4 * GIB

IOAPIC_ADDRESS = 0xFEC0_0000
LAPIC_ADDRESS = 0xFEE0_0000

KVM_IDENTITY_MAP_ADDRESS = 0xFFFB_C000
"""A page that KVM on Intel may need for real mode; it must be outside of memory."""
KVM_TSS_ADDRESS = 0xFFFB_D000
"""Three pages, likewise."""
KVM_RESERVED_SIZE = 4 * PAGE_SIZE
"""From the identity map page to the end of the TSS."""

IOAPIC_ID = 0

PCI_ECAM_START = 0xFEB0_0000
"""Configuration spaces of PCI bus 0, up to the IOAPIC."""
PCI_ECAM_SIZE = MIB
PCI_MMIO32_START = GAP_START
"""Window for 32-bit PCI BARs, up to the ECAM."""
PCI_MMIO32_END = PCI_ECAM_START
PCI_MMIO64_SIZE = 64 * GIB
"""Window for 64-bit PCI BARs, behind memory: all processors can address that much."""
PCI_INTX_GSI = 16
"""The first of four lines that the pins of PCI functions share: those behind the ISA lines."""
PLATFORM_MMIO_START = 0xFED0_0000
"""Window for devices that are not on PCI, up to the local APICs."""
PLATFORM_MMIO_END = LAPIC_ADDRESS

FIXED_MMIO = (
    (IOAPIC_ADDRESS, PAGE_SIZE, "IOAPIC"),
    (LAPIC_ADDRESS, MIB, "local APIC and messages"),
    (KVM_IDENTITY_MAP_ADDRESS, KVM_RESERVED_SIZE, "KVM"),
)
"""(start, size, owner) of what no device may be given."""


def memory_ranges(size: int) -> list[tuple[int, int]]:
    """Lay `size` bytes of memory around the gap.

    Returns:
        (start, size) pairs in ascending order: one, or two if memory does not fit below the gap.
    """
    if size <= GAP_START:
        return [(0, size)]
    return [(0, GAP_START), (GAP_END, size - GAP_START)]
