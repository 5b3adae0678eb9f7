"""The setup header of a bzImage, by the boot protocol.

Field names, offsets and rules: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" and
"Details of Header Fields". Offsets are those of the file, which are those of the zero page too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from linux_loader.errors import MalformedImage, UnsupportedImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux_loader.image import Image

HEADER_OFFSET = 0x1F1
_MIN_VERSION = 0x020C  # the first with xloadflags, and so with a 64-bit entry
_MIN_END = 0x268  # the end of protocol 2.12's header
_SECTOR = 512


class LoadFlags(IntFlag):
    """`loadflags`."""

    LOADED_HIGH = 1 << 0
    KASLR_FLAG = 1 << 1
    QUIET_FLAG = 1 << 5
    KEEP_SEGMENTS = 1 << 6
    CAN_USE_HEAP = 1 << 7


class XLoadFlags(IntFlag):
    """`xloadflags`."""

    XLF_KERNEL_64 = 1 << 0
    XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1
    XLF_EFI_HANDOVER_32 = 1 << 2
    XLF_EFI_HANDOVER_64 = 1 << 3
    XLF_EFI_KEXEC = 1 << 4
    XLF_5LEVEL = 1 << 5
    XLF_5LEVEL_ENABLED = 1 << 6


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """A view of a setup header's bytes.

    Attributes:
        raw: the bytes from file offset 0x1f1 to the end that the header's ``jump`` declares; never
            more, because what follows in the file is code.
    """

    raw: bytes

    @classmethod
    def read(cls, image: Image) -> SetupHeader:
        """Read and check the header of a file that carries the magic ``HdrS``.

        Raises:
            TruncatedImage: the file ends inside it.
            MalformedImage: it contradicts the protocol.
            UnsupportedImage: a kernel without a 64-bit entry.
        """
        fixed = image.read_exactly(HEADER_OFFSET, 0x238 - HEADER_OFFSET, "the setup header")
        _check_identity(cls(fixed), image.name)  # before the rest is believed
        end = 0x202 + fixed[0x201 - HEADER_OFFSET]
        raw = image.read_exactly(HEADER_OFFSET, end - HEADER_OFFSET, "the setup header")
        header = cls(raw)
        _check_placement(header, image.name)
        return header

    @property
    def setup_size(self) -> int:
        """Bytes of boot sector and real-mode code before the protected-mode code."""
        return ((self.field(0x1F1, 1) or 4) + 1) * _SECTOR

    @property
    def protected_mode_size(self) -> int:
        """`syssize`, in bytes."""
        return self.field(0x1F4, 4) * 16

    @property
    def version(self) -> int:
        """Boot protocol version, ``major << 8 | minor``."""
        return self.field(0x206, 2)

    @property
    def kernel_version_offset(self) -> int | None:
        """File offset of the kernel's version string, if it has one."""
        pointer = self.field(0x20E, 2)
        return pointer + 0x200 if pointer else None

    @property
    def loadflags(self) -> LoadFlags:
        """`loadflags`."""
        return LoadFlags(self.field(0x211, 1))

    @property
    def initrd_addr_max(self) -> int:
        """The highest address that the initramfs may occupy (inclusive)."""
        return self.field(0x22C, 4)

    @property
    def kernel_alignment(self) -> int:
        """Alignment that a relocatable kernel wants, bytes."""
        return self.field(0x230, 4)

    @property
    def relocatable(self) -> bool:
        """Whether the kernel runs where it is loaded (`relocatable_kernel`)."""
        return self.field(0x234, 1) != 0

    @property
    def xloadflags(self) -> XLoadFlags:
        """`xloadflags`."""
        return XLoadFlags(self.field(0x236, 2))

    @property
    def cmdline_size(self) -> int:
        """Characters that the command line may have, its terminating NUL not counted."""
        return self.field(0x238, 4)

    @property
    def payload_offset(self) -> int:
        """Offset of the payload from the start of the protected-mode code; 0 if unknown."""
        return self.field(0x248, 4)

    @property
    def payload_length(self) -> int:
        """Bytes of the payload, the size word that ends it included."""
        return self.field(0x24C, 4)

    @property
    def pref_address(self) -> int:
        """Address that the kernel prefers, or (not relocatable) moves itself to."""
        return self.field(0x258, 8)

    @property
    def init_size(self) -> int:
        """Bytes that the kernel needs in one piece before it can read its memory map."""
        return self.field(0x260, 4)

    def field(self, offset: int, size: int) -> int:
        """Return the ``size`` bytes at a file offset as an unsigned little-endian integer."""
        start = offset - HEADER_OFFSET
        return int.from_bytes(self.raw[start : start + size], "little")


def _check_identity(header: SetupHeader, name: str) -> None:
    if header.field(0x1FE, 2) != 0xAA55:
        raise MalformedImage(name, f"has the boot flag {header.field(0x1FE, 2):#06x}, not 0xaa55")
    if header.raw[0x202 - HEADER_OFFSET : 0x206 - HEADER_OFFSET] != b"HdrS":
        raise MalformedImage(name, "has no setup header (the magic HdrS is missing)")
    if not header.loadflags & LoadFlags.LOADED_HIGH:
        raise UnsupportedImage(name, "is a zImage (loaded low); only bzImage kernels boot")
    if header.version < _MIN_VERSION:
        raise UnsupportedImage(
            name,
            f"speaks boot protocol {header.version >> 8}.{header.version & 0xFF:02d}; "
            "the 64-bit entry needs 2.12 or later (Linux 3.8)",
        )
    if not header.xloadflags & XLoadFlags.XLF_KERNEL_64:
        raise UnsupportedImage(name, "has no 64-bit entry (a 32-bit kernel?)")
    jump, reach = header.field(0x200, 1), header.field(0x201, 1)
    # A signed 8-bit jump reaches at most 0x281; the hole in boot_params ends at 0x290.
    if jump != 0xEB or not _MIN_END <= 0x202 + reach <= 0x281:
        raise MalformedImage(name, f"declares a setup header that ends at {0x202 + reach:#x}")


def _check_placement(header: SetupHeader, name: str) -> None:
    alignment = header.kernel_alignment
    if header.relocatable and (alignment == 0 or alignment & (alignment - 1)):
        raise MalformedImage(name, f"asks for an alignment of {alignment:#x}")
    if header.init_size == 0:
        raise MalformedImage(name, "declares an init_size of 0")
    if header.initrd_addr_max == 0:
        raise MalformedImage(name, "declares an initrd_addr_max of 0")
