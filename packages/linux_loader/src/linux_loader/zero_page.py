"""The zero page: `boot_params`, what the 64-bit boot protocol hands to the kernel in RSI.

Sources: Documentation/arch/x86/zero-page.rst, Documentation/arch/x86/boot.rst,
arch/x86/include/uapi/asm/bootparam.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from linux_loader._guest import PAGE_SIZE
from linux_loader.errors import BootParamsError, CmdlineTooLong, OutsideMemory
from linux_loader.setup_header import HEADER_OFFSET, LoadFlags, XLoadFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from linux_loader.kernel import LoadedKernel
    from linux_loader.seams import GuestMemory

E820_MAX_ENTRIES_ZEROPAGE = 128
_TYPE_OF_LOADER_UNDEFINED = 0xFF
_VID_MODE_NORMAL = 0xFFFF
_U32 = 0xFFFF_FFFF
_U64 = 0xFFFF_FFFF_FFFF_FFFF


class E820Type(IntEnum):
    """What a range of guest physical addresses is (ACPI 6.5 §15, table 15-374)."""

    RAM = 1
    RESERVED = 2
    ACPI = 3
    NVS = 4
    UNUSABLE = 5
    PMEM = 7


@dataclass(frozen=True, slots=True)
class E820Entry:
    """One range of the memory map.

    Attributes:
        addr: first guest physical address.
        size: bytes.
        type: what it is.
    """

    addr: int
    size: int
    type: E820Type | int

    def __bytes__(self) -> bytes:
        """The entry as `struct boot_e820_entry`.

        Raises:
            BootParamsError: it is empty, or does not fit 64-bit addresses.
        """
        if self.addr < 0 or self.size <= 0 or self.addr + self.size > _U64 + 1:
            raise BootParamsError(
                f"memory map: {self.size:#x} bytes at {self.addr:#x} are no range"
            )
        if not 0 < self.type <= _U32:
            raise BootParamsError(f"memory map: {self.type} is no type of range")
        return struct.pack("<QQI", self.addr, min(self.size, _U64), self.type)


def write_zero_page(  # noqa: PLR0913  # one keyword for each thing that the kernel is told
    memory: GuestMemory,
    addr: int,
    *,
    kernel: LoadedKernel,
    cmdline_addr: int,
    cmdline_size: int,
    initramfs: tuple[int, int] | None,
    e820: Sequence[E820Entry],
    acpi_rsdp_addr: int = 0,
) -> None:
    """Write `boot_params` for a loaded kernel, of either kind.

    Args:
        memory: guest memory.
        addr: guest physical address of the page; RSI at the kernel's entry.
        kernel: what `load_kernel` returned.
        cmdline_addr: guest physical address of the command line.
        cmdline_size: its characters, the terminating NUL not counted (what `load_cmdline` returns).
        initramfs: what `load_initramfs` returned, or None.
        e820: the memory map, at most 128 entries.
        acpi_rsdp_addr: guest physical address of the RSDP; 0 if the kernel has to search for it.

    Raises:
        CmdlineTooLong: the kernel takes no command line of this length.
        BootParamsError: the memory map or an address does not fit its field.
        OutsideMemory: the page is not all RAM.
    """
    if cmdline_size > kernel.cmdline_max:
        raise CmdlineTooLong(cmdline_size, kernel.cmdline_max)
    page = bytearray(PAGE_SIZE)
    if kernel.setup_header is None:
        _put_synthetic_header(page, cmdline_size)
    else:
        page[HEADER_OFFSET : HEADER_OFFSET + len(kernel.setup_header)] = kernel.setup_header
    struct.pack_into("<H", page, 0x1FA, _VID_MODE_NORMAL)
    page[0x210] = _TYPE_OF_LOADER_UNDEFINED
    if kernel.start <= _U32:  # only the 32-bit entry looks at code32_start
        struct.pack_into("<I", page, 0x214, kernel.start)
    initramfs_addr, initramfs_size = initramfs or (0, 0)
    _put_split(page, 0x218, 0x0C0, initramfs_addr)  # ramdisk_image, ext_ramdisk_image
    _put_split(page, 0x21C, 0x0C4, initramfs_size)  # ramdisk_size, ext_ramdisk_size
    _put_split(page, 0x228, 0x0C8, cmdline_addr)  # cmd_line_ptr, ext_cmd_line_ptr
    if not 0 <= acpi_rsdp_addr <= _U64:
        raise BootParamsError(f"{acpi_rsdp_addr:#x} is no address of an RSDP")
    struct.pack_into("<Q", page, 0x070, acpi_rsdp_addr)
    _put_e820(page, e820)
    if not memory.check_range(addr, PAGE_SIZE):
        raise OutsideMemory("the zero page", addr, PAGE_SIZE)
    memory.write(addr, page)


def _put_synthetic_header(page: bytearray, cmdline_size: int) -> None:
    """Write what an ELF kernel would have had in front of it.

    Kernels ignore an initramfs from a boot loader of type 0 and take a page without the magic for
    one of an old boot loader; the rest says what is true of this way of booting.
    """
    struct.pack_into("<H", page, 0x1FE, 0xAA55)
    page[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", page, 0x206, 0x020C)
    page[0x211] = LoadFlags.LOADED_HIGH
    struct.pack_into("<H", page, 0x236, XLoadFlags.XLF_KERNEL_64)
    struct.pack_into("<I", page, 0x238, cmdline_size)


def _put_split(page: bytearray, low: int, high: int, value: int) -> None:
    """Write a 64-bit value whose upper half lives in a field of its own."""
    if not 0 <= value <= _U64:
        raise BootParamsError(f"{value:#x} does not fit the boot parameters")
    struct.pack_into("<I", page, low, value & _U32)
    struct.pack_into("<I", page, high, value >> 32)


def _put_e820(page: bytearray, e820: Sequence[E820Entry]) -> None:
    if len(e820) > E820_MAX_ENTRIES_ZEROPAGE:
        raise BootParamsError(
            f"memory map: {len(e820)} entries are more than the {E820_MAX_ENTRIES_ZEROPAGE} "
            "that the zero page holds"
        )
    page[0x1E8] = len(e820)
    table = b"".join(bytes(entry) for entry in e820)
    page[0x2D0 : 0x2D0 + len(table)] = table
