"""Loading an ELF vmlinux for the 64-bit boot protocol.

Segments go to their physical addresses straight from the file. Sections are never looked at: a
stripped or damaged section table is none of a loader's business. Sources: System V ABI, chapters 4
and 5 ("ELF Header", "Program Header"); Xen public/elfnote.h for the PVH note.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from linux_loader._guest import align_up, zero
from linux_loader.errors import KernelTooLow, MalformedImage, OutsideMemory, UnsupportedImage
from linux_loader.formats import ELF_MAGIC
from linux_loader.image import Image
from linux_loader.kernel import BootProtocol, LoadedKernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from linux_loader.seams import GuestMemory, Source

_EHDR_SIZE = 64
_PHDR_SIZE = 56
_PN_XNUM = 0xFFFF
_XEN_ELFNOTE_PHYS32_ENTRY = 18
_NOTES_MAX = 1 << 20  # a kernel's notes are a few hundred bytes


@dataclass(frozen=True, slots=True)
class _Segment:
    """One program header."""

    kind: str | int
    offset: int
    paddr: int
    file_size: int
    mem_size: int
    alignment: int

    @property
    def end(self) -> int:
        return self.paddr + self.mem_size


def load(memory: GuestMemory, source: Source, *, high_ram_start: int = 0x10_0000) -> LoadedKernel:
    """Load a 64-bit x86 ELF executable at the physical addresses of its segments.

    Args:
        memory: guest memory.
        source: the file.
        high_ram_start: the lowest address that a segment may occupy.

    Raises:
        ImageError: the file is unreadable, truncated or malformed, or for another machine.
        OutsideMemory: a segment is not wholly RAM.
        KernelTooLow: a segment is below ``high_ram_start``.
    """
    with Image(source, "kernel") as image:
        return load_image(memory, image, high_ram_start=high_ram_start)


def load_image(memory: GuestMemory, image: Image, *, high_ram_start: int) -> LoadedKernel:
    """Do what `load` does, for a file that is open already."""
    entry, segments = _read_headers(image)
    loadable = sorted(
        (s for s in segments if s.kind == "PT_LOAD" and s.mem_size), key=lambda s: s.paddr
    )
    _check_segments(memory, image, loadable, high_ram_start)
    if not any(s.paddr <= entry < s.end for s in loadable):
        raise MalformedImage(image.name, f"has its entry {entry:#x} outside every loaded segment")
    pvh_entry = _find_pvh_entry(image, segments)
    for segment in loadable:
        if segment.file_size:
            image.copy_to(memory, segment.paddr, segment.offset, segment.file_size, "a segment")
        zero(memory, segment.paddr + segment.file_size, segment.mem_size - segment.file_size)
    return LoadedKernel(
        protocol=BootProtocol.LINUX64,
        entry=entry,
        start=loadable[0].paddr,
        end=loadable[-1].end,
        pvh_entry=pvh_entry,
    )


def _read_headers(image: Image) -> tuple[int, list[_Segment]]:
    """Return the entry and all program headers."""
    # Imported here: only those who load an ELF pay for it (70 ms, python -X importtime).
    from elftools.elf.structs import ELFStructs  # noqa: PLC0415

    raw = image.read_exactly(0, _EHDR_SIZE, "the ELF header")
    _check_ident(image.name, raw)
    structs = ELFStructs(little_endian=True, elfclass=64)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    header = structs.Elf_Ehdr.parse_stream(io.BytesIO(raw))
    _check_header(image.name, header)
    count = header["e_phnum"]
    table = image.read_exactly(header["e_phoff"], count * _PHDR_SIZE, "the program header table")
    stream = io.BytesIO(table)
    segments = [_segment(structs.Elf_Phdr.parse_stream(stream)) for _ in range(count)]
    return header["e_entry"], segments


def _segment(phdr: Any) -> _Segment:
    return _Segment(
        kind=phdr["p_type"],
        offset=phdr["p_offset"],
        paddr=phdr["p_paddr"],
        file_size=phdr["p_filesz"],
        mem_size=phdr["p_memsz"],
        alignment=phdr["p_align"],
    )


def _check_ident(name: str, raw: bytes) -> None:
    if not raw.startswith(ELF_MAGIC):
        raise MalformedImage(name, "has no ELF magic")
    if raw[4] == 1:
        raise UnsupportedImage(name, "is a 32-bit ELF; only 64-bit x86 kernels are loaded")
    if raw[4] != 2:
        raise MalformedImage(name, f"has the unknown ELF class {raw[4]}")
    if raw[5] != 1:
        raise UnsupportedImage(name, "is not a little-endian ELF, so not for x86")
    if raw[6] != 1:
        raise MalformedImage(name, f"has the unknown ELF version {raw[6]}")


def _check_header(name: str, header: Any) -> None:
    machine, kind = header["e_machine"], header["e_type"]
    if machine != "EM_X86_64":
        raise UnsupportedImage(name, f"is an ELF for machine {_bare(machine)}, not x86-64")
    if kind != "ET_EXEC":
        raise UnsupportedImage(name, f"is an ELF of type {_bare(kind)}, not an executable kernel")
    if header["e_phnum"] == 0:
        raise MalformedImage(name, "has no program headers")
    if header["e_phnum"] == _PN_XNUM:
        raise UnsupportedImage(name, "has more program headers than any kernel")
    if header["e_phentsize"] != _PHDR_SIZE:
        raise MalformedImage(name, f"has program headers of {header['e_phentsize']} bytes, not 56")
    if header["e_phoff"] < _EHDR_SIZE:
        raise MalformedImage(name, "has its program headers inside the ELF header")


def _bare(name: str | int) -> str:
    return str(name).removeprefix("EM_").removeprefix("ET_")


def _check_segments(
    memory: GuestMemory, image: Image, loadable: list[_Segment], high_ram_start: int
) -> None:
    """Check everything before the first byte is written."""
    if not loadable:
        raise MalformedImage(image.name, "has nothing to load")
    previous_end = high_ram_start
    for segment in loadable:
        if segment.mem_size < segment.file_size:
            raise MalformedImage(
                image.name,
                f"has a segment of {segment.file_size:#x} bytes in the file "
                f"but {segment.mem_size:#x} in memory",
            )
        image.require(segment.offset + segment.file_size, "a segment")
        if segment.paddr < high_ram_start:
            raise KernelTooLow(image.name, segment.paddr, high_ram_start)
        if not memory.check_range(segment.paddr, segment.mem_size):
            raise OutsideMemory(f"a segment of {image.name}", segment.paddr, segment.mem_size)
        if segment.paddr < previous_end:
            raise MalformedImage(image.name, f"has segments that overlap at {segment.paddr:#x}")
        previous_end = segment.end


def _find_pvh_entry(image: Image, segments: list[_Segment]) -> int | None:
    """Return the entry that the first PVH note names; a kernel may have several note segments."""
    for segment in segments:
        if segment.kind != "PT_NOTE" or not 0 < segment.file_size <= _NOTES_MAX:
            continue
        notes = image.read_exactly(segment.offset, segment.file_size, "a note segment")
        alignment = 8 if segment.alignment == 8 else 4
        for name, kind, value in _notes(notes, alignment):
            if name == b"Xen\0" and kind == _XEN_ELFNOTE_PHYS32_ENTRY and len(value) in (4, 8):
                return int.from_bytes(value, "little")
    return None


def _notes(data: bytes, alignment: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield ``(name, type, descriptor)`` until the data end or stop making sense."""
    offset = 0
    while offset + 12 <= len(data):
        name_size, value_size, kind = struct.unpack_from("<III", data, offset)
        name_start = offset + 12
        value_start = align_up(name_start + name_size, alignment)
        if value_start + value_size > len(data):
            return
        yield (
            data[name_start : name_start + name_size],
            kind,
            data[value_start : value_start + value_size],
        )
        offset = align_up(value_start + value_size, alignment)
