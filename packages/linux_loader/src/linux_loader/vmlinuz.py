"""Unpacking the ELF kernel from a bzImage on the host.

Under an emulated CPU the kernel's own decompressor costs seconds; here it costs a fraction of one.
Source: Documentation/arch/x86/boot.rst, ``payload_offset`` and ``payload_length``; the payload ends
with its unpacked size as a 32-bit word (scripts/Makefile.lib, size_append; gzip has it by itself).
"""

from __future__ import annotations

import struct

from linux_loader.errors import (
    CorruptPayload,
    MalformedImage,
    MissingDecompressor,
    UnpackedTooLarge,
    UnpackError,
)
from linux_loader.formats import ELF_MAGIC, ImageFormat, identify_image
from linux_loader.image import Image
from linux_loader.setup_header import SetupHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux_loader.seams import Source

DEFAULT_LIMIT = 1 << 29
_SIZE_WORD = 4


def extract_vmlinux(path: Source, *, limit: int = DEFAULT_LIMIT) -> bytes:
    """Return the ELF kernel that a bzImage carries, unpacked.

    Relocations follow the ELF in the result, as they do in the payload; loaders ignore them.

    Args:
        path: the bzImage: path, binary file object, or content.
        limit: the most bytes that the kernel may unpack to. No more than the payload declares is
            ever unpacked, and a payload that declares more than this is refused before.

    Raises:
        ImageError: the file is no bzImage, is truncated, or carries no payload.
        UnpackedTooLarge: the kernel would take more than ``limit`` bytes.
        MissingDecompressor: the module for its compression is not installed.
        CorruptPayload: the payload is damaged.
    """
    with Image(path, "kernel") as image:
        if identify_image(image) is ImageFormat.ELF:
            raise UnpackError(image.name, "is an ELF already; there is nothing to unpack")
        payload = memoryview(_read_payload(image))
        name = image.name
    (size,) = struct.unpack("<I", payload[-_SIZE_WORD:])
    if size > limit:
        raise UnpackedTooLarge(name, size, limit)
    vmlinux = _unpack(name, payload, size)
    if not vmlinux.startswith(ELF_MAGIC):
        raise CorruptPayload(name, "has a payload that is not an ELF")
    return vmlinux


def _read_payload(image: Image) -> bytes:
    header = SetupHeader.read(image)
    if header.payload_offset == 0 or header.payload_length <= _SIZE_WORD:
        raise MalformedImage(image.name, "declares no payload")
    return image.read_exactly(
        header.setup_size + header.payload_offset, header.payload_length, "the payload"
    )


def _unpack(name: str, payload: memoryview, size: int) -> bytes:
    # Imported here: the compression modules are for those who unpack.
    from linux_loader._decompress import Damaged, NotInstalled, find_codec  # noqa: PLC0415

    codec = find_codec(bytes(payload[:6]))
    if codec is None:
        magic = bytes(payload[:4]).hex(" ")
        raise CorruptPayload(name, f"has a payload of no known compression (it begins {magic})")
    # gzip's trailer is the size word; to the other formats it is foreign.
    stream = payload if codec.name == "gzip" else payload[:-_SIZE_WORD]
    try:
        unpacked = codec.unpack(stream, size)
    except NotInstalled as error:
        raise MissingDecompressor(name, codec.name, codec.extra) from error
    except Damaged as error:
        raise CorruptPayload(name, f"has a damaged {codec.name} payload: {error}") from error
    if len(unpacked) != size:
        raise CorruptPayload(
            name, f"unpacks to {len(unpacked)} bytes but declares {size}; it is damaged"
        )
    return unpacked
