"""A kernel in guest memory: where it is, and how it is to be entered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from linux_loader.setup_header import SetupHeader

# arch/x86/include/asm/boot and header.S of every 64-bit kernel set initrd_addr_max to this; an ELF
# brings no header that says so.
_INITRD_ADDR_MAX = 0x7FFF_FFFF
_COMMAND_LINE_SIZE = 2048  # x86 kernels' own buffer, its NUL included


class BootProtocol(Enum):
    """How a kernel is entered."""

    LINUX64 = "linux64"
    """Long mode, `boot_params` in RSI (Documentation/arch/x86/boot.rst, 64-bit Boot Protocol)."""


@dataclass(frozen=True, slots=True)
class LoadedKernel:
    """A kernel in guest memory. Addresses are guest physical.

    Attributes:
        protocol: how to enter it.
        entry: address to enter it at.
        start: first address that it occupies.
        end: first address after what it occupies *and* what it needs before it reads its memory
            map (BSS, ``init_size``). Nothing else may be placed in ``[start, end)``.
        setup_header: a bzImage's setup header, from file offset 0x1f1 to the end that it declares;
            None for an ELF.
        pvh_entry: the 32-bit entry of the PVH protocol if the ELF has the note for it.
    """

    protocol: BootProtocol
    entry: int
    start: int
    end: int
    setup_header: bytes | None = None
    pvh_entry: int | None = None

    @property
    def initrd_addr_max(self) -> int:
        """The highest address that an initramfs may occupy (inclusive)."""
        if self.setup_header is None:
            return _INITRD_ADDR_MAX
        return SetupHeader(self.setup_header).initrd_addr_max

    @property
    def cmdline_max(self) -> int:
        """Characters that the command line may have, its terminating NUL not counted."""
        if self.setup_header is None:
            return _COMMAND_LINE_SIZE - 1
        return SetupHeader(self.setup_header).cmdline_size
