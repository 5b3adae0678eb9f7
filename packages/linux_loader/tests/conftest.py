"""Small kernels made of bytes, and guest memory to load them into."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from vm_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20

# name: (file offset, struct format), Documentation/arch/x86/boot.rst
_HEADER_FIELDS = {
    "setup_sects": (0x1F1, "<B"),
    "syssize": (0x1F4, "<I"),
    "boot_flag": (0x1FE, "<H"),
    "jump": (0x200, "<B"),
    "jump_reach": (0x201, "<B"),
    "header": (0x202, "<4s"),
    "version": (0x206, "<H"),
    "kernel_version": (0x20E, "<H"),
    "loadflags": (0x211, "<B"),
    "initrd_addr_max": (0x22C, "<I"),
    "kernel_alignment": (0x230, "<I"),
    "relocatable_kernel": (0x234, "<B"),
    "xloadflags": (0x236, "<H"),
    "cmdline_size": (0x238, "<I"),
    "payload_offset": (0x248, "<I"),
    "payload_length": (0x24C, "<I"),
    "pref_address": (0x258, "<Q"),
    "init_size": (0x260, "<I"),
}


@dataclass
class Segment:
    """A program header and the bytes behind it; None means what agrees with the rest."""

    paddr: int = 0
    data: bytes = b""
    memsz: int | None = None
    kind: int = 1
    filesz: int | None = None
    offset: int | None = None
    align: int = 0x1000


def build_elf(segments: list[Segment], entry: int | None = None, **ehdr: int) -> bytes:
    """Make an ELF64 for x86-64 of segments; `ehdr` overrides fields of its header."""
    fields = {
        "elf_class": 2, "data": 1, "ident_version": 1, "type": 2, "machine": 62, "version": 1,
        "entry": segments[0].paddr if entry is None and segments else entry or 0,
        "phoff": 64, "shoff": 0, "flags": 0, "ehsize": 64, "phentsize": 56,
        "phnum": len(segments), "shentsize": 0, "shnum": 0, "shstrndx": 0,
    } | ehdr  # fmt: skip
    head = struct.pack("<4s3B9xHHIQQQIHHHHHH", b"\x7fELF", *fields.values())
    table, body = b"", b""
    body_start = 64 + 56 * len(segments)
    for segment in segments:
        filesz = len(segment.data) if segment.filesz is None else segment.filesz
        memsz = filesz if segment.memsz is None else segment.memsz
        offset = body_start + len(body) if segment.offset is None else segment.offset
        table += struct.pack(
            "<IIQQQQQQ", segment.kind, 5, offset, 0, segment.paddr, filesz, memsz, segment.align
        )
        body += segment.data
    return head + table + body


def build_note(name: bytes, kind: int, value: bytes) -> bytes:
    """Make one ELF note, padded to four bytes."""

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name), len(value), kind) + padded(name) + padded(value)


def build_bzimage(code: bytes = b"\x90" * 1024, **fields: object) -> bytes:
    """Make a bzImage with this protected-mode code; `fields` override those of its header."""
    setup_sects = int(fields.get("setup_sects", 3))  # type: ignore[call-overload]
    code += bytes(-len(code) % 16)
    values: dict[str, object] = {
        "setup_sects": setup_sects, "syssize": len(code) // 16, "boot_flag": 0xAA55, "jump": 0xEB,
        "jump_reach": 0x6A, "header": b"HdrS", "version": 0x020F, "loadflags": 1,
        "initrd_addr_max": 0x7FFF_FFFF, "kernel_alignment": 2 * MIB, "relocatable_kernel": 1,
        "xloadflags": 1, "cmdline_size": 2047, "pref_address": 16 * MIB, "init_size": 4 * MIB,
    } | fields  # fmt: skip
    setup = bytearray(b"\xcc" * (((setup_sects or 4) + 1) * 512))  # header's surroundings: junk
    setup[0x1F1:0x26C] = bytes(0x26C - 0x1F1)
    for name, value in values.items():
        offset, layout = _HEADER_FIELDS[name]
        struct.pack_into(layout, setup, offset, value)
    return bytes(setup) + code


def build_vmlinuz(payload: bytes, unpacked_size: int | None, **fields: object) -> bytes:
    """Make a bzImage that carries a payload; a size of None means that the payload ends with it."""
    if unpacked_size is not None:
        payload += struct.pack("<I", unpacked_size)
    code = b"\x90" * 0x300 + payload
    return build_bzimage(code, **{"payload_offset": 0x300, "payload_length": len(payload)} | fields)


@pytest.fixture(scope="session")
def elf_file() -> Callable[..., bytes]:
    return build_elf


@pytest.fixture(scope="session")
def segment() -> type[Segment]:
    return Segment


@pytest.fixture(scope="session")
def elf_note() -> Callable[[bytes, int, bytes], bytes]:
    return build_note


@pytest.fixture(scope="session")
def bzimage_file() -> Callable[..., bytes]:
    return build_bzimage


@pytest.fixture(scope="session")
def vmlinuz_file() -> Callable[..., bytes]:
    return build_vmlinuz


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """64 MiB from 0."""
    with GuestMemory.from_ranges([(0, 64 * MIB)]) as memory:
        yield memory
