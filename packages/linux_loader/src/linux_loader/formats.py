"""Telling kernel images from everything else that people pass by mistake."""

from __future__ import annotations

from enum import Enum

from linux_loader.errors import EmptyImage, ForeignImage
from linux_loader.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux_loader.seams import Source

ELF_MAGIC = b"\x7fELF"
_HDRS_OFFSET = 0x202  # Documentation/arch/x86/boot.rst, field `header`
_HDRS = b"HdrS"
_HEAD_SIZE = 4096

# (offset, magic, what it is), most specific first.
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0x38, b"ARM\x64", "an arm64 kernel (Image)"),
    (0x38, b"RSC\x05", "a RISC-V kernel (Image)"),
    (0x24, b"\x18\x28\x6f\x01", "a 32-bit ARM kernel (zImage)"),
    (4, b"zimg", "an EFI zboot kernel of another architecture"),
    (0, b"MZ", "a PE/EFI program"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image (uImage)"),
    (0, b"\xd0\x0d\xfe\xed", "a flattened device tree or FIT image"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"BZh", "bzip2-compressed data"),
    (0, b"\xfd7zXZ\x00", "xz-compressed data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed data"),
    (0, b"\x02\x21\x4c\x18", "lz4-compressed data"),
    (0, b"070701", "a cpio archive (an initramfs?)"),
    (0, b"070702", "a cpio archive (an initramfs?)"),
    (0, b"!<arch>\n", "an ar archive or Debian package"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"hsqs", "a squashfs file system"),
    (0x438, b"\x53\xef", "an ext2/3/4 file system"),
    (0, b"#!", "a script"),
    (0x200, b"EFI PART", "a disk image with a GUID partition table"),
    (0x1FE, b"\x55\xaa", "a boot sector or disk image"),
)


class ImageFormat(Enum):
    """The kernel files that this package loads."""

    ELF = "ELF"
    BZIMAGE = "bzImage"


def identify(source: Source) -> ImageFormat:
    """Tell which kind of kernel a file is, by its magic numbers alone.

    Raises:
        UnreadableImage: it cannot be read.
        EmptyImage: it has no bytes.
        ForeignImage: it is neither; the message says what it looks like.
    """
    with Image(source, "kernel") as image:
        return identify_image(image)


def identify_image(image: Image) -> ImageFormat:
    """Do what `identify` does, for a file that is open already."""
    head = image.read(0, _HEAD_SIZE)
    if not head:
        raise EmptyImage(image.name)
    if head.startswith(ELF_MAGIC):
        return ImageFormat.ELF
    if head.startswith(_HDRS, _HDRS_OFFSET):
        return ImageFormat.BZIMAGE
    raise ForeignImage(image.name, describe(head))


def describe(head: bytes) -> str:
    """Say in a few words what a file that begins with ``head`` looks like."""
    for offset, magic, description in _FOREIGN:
        if head.startswith(magic, offset):
            return description
    if not any(head):
        return "nothing but zeros"
    if _is_text(head):
        return "a text file"
    return f"unknown data (it begins with {head[:8].hex(' ')})"


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-4].decode() if len(head) == _HEAD_SIZE else head.decode()
    except UnicodeDecodeError as error:
        # A multi-byte character may be cut where the head ends, nowhere else.
        if error.start < len(head) - 8:
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character.isspace() for character in text)
