"""Unpacking a vmlinuz on the host."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import sys
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux_loader import (
    CorruptPayload,
    LoaderError,
    MalformedImage,
    MissingDecompressor,
    TruncatedImage,
    UnpackedTooLarge,
    UnpackError,
    extract_vmlinux,
)

MIB = 1 << 20
ELF = b"\x7fELF" + bytes(range(256)) * 64


def xz_as_the_kernel_does(data: bytes) -> bytes:
    """scripts/xz_wrap.sh: the x86 branch filter before LZMA2, CRC32."""
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 * MIB}]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


def lz4_legacy(data: bytes) -> bytes:
    """The legacy frame of one block per 8 MiB."""
    block = pytest.importorskip("lz4.block", reason="lz4 is not installed")
    frame = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 * MIB):
        packed = block.compress(data[start : start + 8 * MIB], store_size=False)
        frame += struct.pack("<I", len(packed)) + packed
    return frame


def zstandard(data: bytes) -> bytes:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd = pytest.importorskip(name, reason="zstd is not installed")
    return bytes(zstd.compress(data))


# name: (compress, whether a size word follows)
COMPRESSIONS = {
    "none": (bytes, True),
    "gzip": (gzip.compress, False),
    "bzip2": (bz2.compress, True),
    "xz": (xz_as_the_kernel_does, True),
    "lzma": (lambda data: lzma.compress(data, lzma.FORMAT_ALONE), True),
    "lz4": (lz4_legacy, True),
    "zstd": (zstandard, True),
}


@pytest.fixture(params=COMPRESSIONS)
def compression(request):
    return request.param


def make(vmlinuz_file, compression, content=ELF, declared=None):
    """A vmlinuz around `content`, declaring another size if told to."""
    compress, size_word = COMPRESSIONS[compression]
    packed = compress(content)
    size = len(content) if declared is None else declared
    if size_word:
        return vmlinuz_file(packed, size)
    return vmlinuz_file(packed[:-4] + struct.pack("<I", size), None)


def test_every_compression_unpacks(vmlinuz_file, compression, tmp_path):
    """What comes out is what the kernel's build put in."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(make(vmlinuz_file, compression))
    assert extract_vmlinux(path) == ELF


def test_many_blocks_unpack(vmlinuz_file, compression):
    """Kernels are larger than one lz4 block."""
    content = ELF + bytes(9 * MIB)
    assert extract_vmlinux(make(vmlinuz_file, compression, content)) == content


def test_the_limit_holds_before_unpacking(vmlinuz_file, compression):
    """A size above the limit is refused by the word alone; at the limit it is not."""
    file = make(vmlinuz_file, compression)
    assert extract_vmlinux(file, limit=len(ELF)) == ELF
    with pytest.raises(UnpackedTooLarge, match="more than") as raised:
        extract_vmlinux(file, limit=len(ELF) - 1)
    assert (raised.value.size, raised.value.limit) == (len(ELF), len(ELF) - 1)


@pytest.mark.parametrize("declared", [0, 4, len(ELF) - 1, len(ELF) + 1, 10 * MIB])
def test_a_wrong_size_is_damage(vmlinuz_file, compression, declared):
    """The unpacked bytes must be as many as the payload says."""
    with pytest.raises(CorruptPayload):
        extract_vmlinux(make(vmlinuz_file, compression, declared=declared))


def test_a_bomb_takes_no_memory(vmlinuz_file, compression):
    """Unpacking stops one byte behind the declared size; only a dictionary may cost more."""
    hidden = MIB if compression in {"none", "lz4"} else 64 * MIB  # the first two hide little
    dictionary = {"xz": 32 * MIB, "lzma": 8 * MIB}.get(compression, 0)
    file = make(vmlinuz_file, compression, ELF + bytes(hidden), declared=65536)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayload):
            extract_vmlinux(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < dictionary + 3 * len(file) + 4 * MIB


def test_a_truncated_stream_is_damage(vmlinuz_file, compression):
    """A stream that stops early, in a file that is whole, is a corrupt payload."""
    compress, _ = COMPRESSIONS[compression]
    packed = compress(ELF)
    with pytest.raises(CorruptPayload):
        extract_vmlinux(vmlinuz_file(packed[: len(packed) // 2], len(ELF)))


@settings(deadline=None)
@given(data=st.data())
def test_damaged_payloads_end_in_loader_errors(vmlinuz_file, data):
    """Overwritten bytes anywhere in a payload never raise anything else."""
    compression = data.draw(st.sampled_from(["gzip", "bzip2", "xz", "lzma"]))
    file = bytearray(make(vmlinuz_file, compression))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(2048 + 0x300, len(file) - 1))] = data.draw(st.integers(0, 255))
    with suppress(LoaderError):
        assert extract_vmlinux(bytes(file), limit=MIB).startswith(b"\x7fELF")


@settings(deadline=None)
@given(data=st.data())
def test_damaged_payloads_of_extras_end_in_loader_errors(vmlinuz_file, data):
    """The same holds for the compressions that need a module."""
    compression = data.draw(st.sampled_from(["lz4", "zstd"]))
    file = bytearray(make(vmlinuz_file, compression))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(2048 + 0x300, len(file) - 1))] = data.draw(st.integers(0, 255))
    with suppress(LoaderError):
        assert extract_vmlinux(bytes(file), limit=MIB).startswith(b"\x7fELF")


@pytest.mark.parametrize(
    ("magic", "module", "extra"),
    [
        (b"\x02\x21\x4c\x18", "lz4.block", "lz4"),
        (b"\x28\xb5\x2f\xfd", "backports.zstd", "zstd"),
    ],
)
def test_a_missing_module_names_the_extra(vmlinuz_file, monkeypatch, magic, module, extra):
    """Without the module the message is the command that brings it."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(MissingDecompressor, match=rf"linux-loader\[{extra}\]") as raised:
        extract_vmlinux(vmlinuz_file(magic + bytes(20), 100))
    assert raised.value.extra == extra


def test_lzo_is_named(vmlinuz_file):
    """A compression that nothing here reads is named all the same."""
    with pytest.raises(MissingDecompressor, match="lzo"):
        extract_vmlinux(vmlinuz_file(b"\x89LZO\0\r\n\x1a\n", 100))


def test_an_unknown_compression_is_damage(vmlinuz_file):
    """A payload without a known magic number is shown by its first bytes."""
    with pytest.raises(CorruptPayload, match="01 02 03 04"):
        extract_vmlinux(vmlinuz_file(b"\1\2\3\4" * 10, 100))


def test_a_payload_that_is_no_elf_is_damage(vmlinuz_file):
    """Only an ELF is a kernel."""
    with pytest.raises(CorruptPayload, match="not an ELF"):
        extract_vmlinux(vmlinuz_file(gzip.compress(b"MZ" * 100), None))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"payload_offset": 0}, MalformedImage),
        ({"payload_length": 0}, MalformedImage),
        ({"payload_length": 4}, MalformedImage),
        ({"payload_length": 0xFFFF_FFFF}, TruncatedImage),
        ({"payload_offset": 0xFFFF_FFFF}, TruncatedImage),
    ],
)
def test_the_payloads_place_is_checked(vmlinuz_file, fields, error):
    """A payload that is not in the file is refused."""
    with pytest.raises(error, match="payload"):
        extract_vmlinux(vmlinuz_file(gzip.compress(ELF), None, **fields))


def test_an_elf_needs_no_unpacking():
    """An ELF is refused with a sentence that says why."""
    with pytest.raises(UnpackError, match="already"):
        extract_vmlinux(ELF)
