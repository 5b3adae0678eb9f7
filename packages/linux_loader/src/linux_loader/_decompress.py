"""The compressions of Linux kernels, each bounded by the size that its output must have.

Magic numbers: Documentation/arch/x86/boot.rst, ``payload_offset``. No function here returns, or
holds, more than a few bytes above the size it was told: a stream that goes on is damaged.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import sys
import zlib
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_XZ_MEMORY_MAX = 1 << 28  # xz and lzma dictionaries; kernels use up to 128 MiB
_LZ4_BLOCK_MAX = 8 << 20  # the legacy frame's fixed block size
_LZ4_MAGIC_SIZE = 4


class Damaged(Exception):  # noqa: N818  # private; the caller turns it into a public error
    """The stream does not unpack."""


class NotInstalled(Exception):  # noqa: N818  # as above
    """No module for this compression can be imported."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One compression.

    Attributes:
        name: as the kernel's configuration calls it.
        unpack: ``(stream, size)`` to the unpacked bytes.
        extra: the extra of this package that brings its module, if it needs one.
    """

    name: str
    unpack: Callable[[memoryview, int], bytes]
    extra: str | None = None


class _Decompressor(Protocol):
    """What the standard library's decompressor objects share."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: memoryview, max_length: int) -> bytes: ...


def find_codec(head: bytes) -> Codec | None:
    """Return the compression whose magic number opens ``head``."""
    for magic, codec in _CODECS:
        if head.startswith(magic):
            return codec
    return None


def _drain(decompressor: _Decompressor, stream: memoryview, size: int) -> bytes:
    """Unpack at most one byte more than ``size``, which is enough to know that it is too much."""
    try:
        unpacked = decompressor.decompress(stream, size + 1)
        if not decompressor.eof and len(unpacked) <= size:
            # All output may be there while the stream's own trailer has yet to be read.
            unpacked += decompressor.decompress(memoryview(b""), 1)
    except EOFError as error:
        raise Damaged("it ends early") from error
    except (zlib.error, OSError, lzma.LZMAError, ValueError) as error:
        raise Damaged(str(error)) from error
    if not decompressor.eof:
        raise Damaged("it ends early" if len(unpacked) <= size else "it goes on too long")
    return unpacked


class _Zlib:
    """zlib's object with the interface of the others."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    def decompress(self, data: memoryview, max_length: int) -> bytes:
        return self._object.decompress(data or self._object.unconsumed_tail, max_length)


def _stored(stream: memoryview, size: int) -> bytes:
    return bytes(stream[: size + 1])


def _gzip(stream: memoryview, size: int) -> bytes:
    return _drain(_Zlib(), stream, size)


def _bzip2(stream: memoryview, size: int) -> bytes:
    return _drain(bz2.BZ2Decompressor(), stream, size)


def _xz(stream: memoryview, size: int) -> bytes:
    return _drain(lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_MAX), stream, size)


def _lzma(stream: memoryview, size: int) -> bytes:
    return _drain(lzma.LZMADecompressor(lzma.FORMAT_ALONE, _XZ_MEMORY_MAX), stream, size)


def _lz4(stream: memoryview, size: int) -> bytes:
    """Unpack the legacy frame: a magic number, then blocks that each open with their length."""
    try:
        lz4_block = import_module("lz4.block")
    except ImportError as error:
        raise NotInstalled from error
    blocks = []
    offset, left = _LZ4_MAGIC_SIZE, size
    while left and offset + 4 <= len(stream):
        (length,) = struct.unpack_from("<I", stream, offset)
        offset += 4
        if offset + length > len(stream):
            raise Damaged("it ends early")
        try:
            block = lz4_block.decompress(
                stream[offset : offset + length], uncompressed_size=min(left, _LZ4_BLOCK_MAX)
            )
        except (lz4_block.LZ4BlockError, ValueError, MemoryError, OverflowError) as error:
            raise Damaged(str(error)) from error
        blocks.append(block)
        offset += length
        left -= len(block)
    return b"".join(blocks)


def _zstd(stream: memoryview, size: int) -> bytes:
    try:
        zstd = import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
    except ImportError as error:
        raise NotInstalled from error
    try:
        return _drain(zstd.ZstdDecompressor(), stream, size)
    except zstd.ZstdError as error:
        raise Damaged(str(error)) from error


def _lzo(_stream: memoryview, _size: int) -> bytes:
    raise NotInstalled


_CODECS: tuple[tuple[bytes, Codec], ...] = (
    (b"\x7fELF", Codec("no compression", _stored)),
    (b"\x1f\x8b", Codec("gzip", _gzip)),
    (b"BZh", Codec("bzip2", _bzip2)),
    (b"\xfd7zXZ\x00", Codec("xz", _xz)),
    (b"\x5d\x00\x00", Codec("lzma", _lzma)),
    (b"\x02\x21\x4c\x18", Codec("lz4", _lz4, extra="lz4")),
    (b"\x28\xb5\x2f\xfd", Codec("zstd", _zstd, extra="zstd")),
    (b"\x89LZO", Codec("lzo", _lzo)),
)
