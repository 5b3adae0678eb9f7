"""ELF kernels: what is loaded where, and what is refused."""

from __future__ import annotations

import io
import os
import struct

import pytest

from linux_loader import (
    BootProtocol,
    KernelTooLow,
    LoaderError,
    MalformedImage,
    OutsideMemory,
    TruncatedImage,
    UnsupportedImage,
    elf,
    load_kernel,
)
from vm_memory import GuestMemory

MIB = 1 << 20
PVH_NOTE = 18


def test_segments_land_at_their_physical_addresses(memory, elf_file, segment):
    """Each PT_LOAD's bytes are at its p_paddr; start and end span them all."""
    file = elf_file([segment(0x100_0000, b"text"), segment(0x200_0000, b"data")])
    kernel = load_kernel(memory, file)
    assert memory.read(0x100_0000, 4) == b"text"
    assert memory.read(0x200_0000, 4) == b"data"
    assert (kernel.start, kernel.end) == (0x100_0000, 0x200_0004)
    assert (kernel.protocol, kernel.entry) == (BootProtocol.LINUX64, 0x100_0000)
    assert kernel.setup_header is None


@pytest.mark.parametrize("form", ["path", "file", "unbuffered", "stream", "bytes"])
def test_every_form_of_source_loads_the_same(memory, elf_file, segment, tmp_path, form):
    """A path, a file object at any position, a stream without descriptor and bytes are one."""
    content = elf_file([segment(0x100_0000, b"text" * 5000)])
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    with path.open("rb") as file, path.open("rb", buffering=0) as unbuffered:
        file.seek(100)
        source = {
            "path": path,
            "file": file,
            "unbuffered": unbuffered,
            "stream": io.BytesIO(content),
            "bytes": content,
        }[form]
        load_kernel(memory, source)
        assert not file.closed
    assert memory.read(0x100_0000, 20000) == b"text" * 5000


def test_a_decompressing_stream_is_read_through_itself(memory, elf_file, segment, tmp_path):
    """A GzipFile's descriptor is the compressed file's and must not be read."""
    import gzip  # noqa: PLC0415

    path = tmp_path / "vmlinux.gz"
    path.write_bytes(gzip.compress(elf_file([segment(0x100_0000, b"text")])))
    with gzip.open(path) as file:
        load_kernel(memory, file)
    assert memory.read(0x100_0000, 4) == b"text"


def test_bss_is_zeroed_and_counted(memory, elf_file, segment):
    """Bytes beyond p_filesz are zero even in memory that was used before, and belong to the end."""
    memory.write(0x100_0000, b"\xaa" * 0x2000)
    kernel = load_kernel(memory, elf_file([segment(0x100_0000, b"text", memsz=0x2000)]))
    assert memory.read(0x100_0000, 0x2000) == b"text" + bytes(0x1FFC)
    assert kernel.end == 0x100_2000


def test_a_segment_of_bss_alone_is_zeroed_and_counted(memory, elf_file, segment):
    """A PT_LOAD with p_filesz 0 is no less a segment (rust-vmm's loader skips it)."""
    memory.write(0x200_0000, b"\xaa" * 0x5000)
    file = elf_file([segment(0x100_0000, b"text"), segment(0x200_0000, memsz=0x5000)])
    assert load_kernel(memory, file).end == 0x200_5000
    assert memory.read(0x200_0000, 0x5000) == bytes(0x5000)


def test_bytes_around_a_segment_stay(memory, elf_file, segment):
    """Loading writes the segment and nothing else."""
    memory.write(0xFF_F000, b"\xaa" * 0x3000)
    load_kernel(memory, elf_file([segment(0x100_0000, b"x" * 0x800, memsz=0x1000)]))
    assert memory.read(0xFF_F000, 0x1000) == b"\xaa" * 0x1000
    assert memory.read(0x100_1000, 0x1000) == b"\xaa" * 0x1000


def test_a_segment_may_cross_adjacent_regions(elf_file, segment):
    """Adjacent regions are one range of RAM."""
    with GuestMemory.from_ranges([(0, 16 * MIB), (16 * MIB, 16 * MIB)]) as memory:
        load_kernel(memory, elf_file([segment(16 * MIB - 2, b"text", memsz=8)]))
        assert memory.read(16 * MIB - 2, 8) == b"text\0\0\0\0"


def test_entry_may_differ_from_start(memory, elf_file, segment):
    """The entry is e_entry; the start is the lowest segment."""
    kernel = load_kernel(memory, elf_file([segment(0x100_0000, b"text")], entry=0x100_0002))
    assert (kernel.start, kernel.entry) == (0x100_0000, 0x100_0002)


@pytest.mark.parametrize("entry", [0, 0xFF_FFFF, 0x100_0004, 0xFFFF_FFFF_8100_0000])
def test_entry_outside_every_segment_is_refused(memory, elf_file, segment, entry):
    """A kernel that would be entered where nothing was loaded is malformed."""
    with pytest.raises(MalformedImage, match="entry"):
        load_kernel(memory, elf_file([segment(0x100_0000, b"text")], entry=entry))


@pytest.mark.parametrize("width", [4, 8])
def test_pvh_entry_is_reported(memory, elf_file, segment, elf_note, width):
    """The Xen PHYS32_ENTRY note names the PVH entry, in four or eight bytes."""
    note = elf_note(b"Xen\0", PVH_NOTE, (0x100_0002).to_bytes(width, "little"))
    file = elf_file([segment(0x100_0000, b"text"), segment(0, note, kind=4, align=4)])
    assert load_kernel(memory, file).pvh_entry == 0x100_0002


def test_pvh_note_is_found_among_others(memory, elf_file, segment, elf_note):
    """The first hit wins, whichever note segments come before and after it."""
    other = elf_note(b"GNU\0", 3, b"build id...")
    same_name = elf_note(b"Xen\0", 6, b"linux\0")
    pvh = elf_note(b"Xen\0", PVH_NOTE, struct.pack("<I", 0x100_0001))
    late = elf_note(b"Xen\0", PVH_NOTE, struct.pack("<I", 0x100_0002))
    file = elf_file(
        [
            segment(0, other, kind=4, align=4),
            segment(0x100_0000, b"text"),
            segment(0, other + same_name + pvh, kind=4, align=4),
            segment(0, late + other, kind=4, align=4),
        ],
        entry=0x100_0000,
    )
    assert load_kernel(memory, file).pvh_entry == 0x100_0001


@pytest.mark.parametrize(
    "note",
    [b"", b"\xff" * 12, b"\xff" * 64, struct.pack("<III", 4, 4, PVH_NOTE) + b"Xen\0", b"\0" * 64],
)
def test_notes_without_sense_are_no_pvh_entry(memory, elf_file, segment, note):
    """Notes are optional, so damaged ones only mean that there is no PVH entry."""
    file = elf_file([segment(0x100_0000, b"text"), segment(0, note, kind=4, align=4)])
    assert load_kernel(memory, file).pvh_entry is None


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"elf_class": 1}, UnsupportedImage, "32-bit"),
        ({"elf_class": 9}, MalformedImage, "class"),
        ({"data": 2}, UnsupportedImage, "little-endian"),
        ({"ident_version": 0}, MalformedImage, "version"),
        ({"machine": 183}, UnsupportedImage, "AARCH64"),
        ({"machine": 0xEEEE}, UnsupportedImage, "61166"),
        ({"type": 3}, UnsupportedImage, "DYN"),
        ({"type": 1}, UnsupportedImage, "REL"),
        ({"type": 0x1234}, UnsupportedImage, "4660"),
        ({"phnum": 0}, MalformedImage, "no program headers"),
        ({"phnum": 0xFFFF}, UnsupportedImage, "more program headers"),
        ({"phnum": 500}, TruncatedImage, "program header table"),
        ({"phentsize": 32}, MalformedImage, "32 bytes"),
        ({"phoff": 32}, MalformedImage, "inside"),
        ({"phoff": 1 << 63}, TruncatedImage, "program header table"),
    ],
)
def test_header_is_checked(memory, elf_file, segment, fields, error, words):
    """Each field of the ELF header that matters has its own refusal."""
    with pytest.raises(error, match=words):
        load_kernel(memory, elf_file([segment(0x100_0000, b"text")], entry=0x100_0000, **fields))


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"memsz": 2}, MalformedImage, "in memory"),
        ({"filesz": 5}, TruncatedImage, "segment"),
        ({"filesz": 1 << 63, "memsz": 1 << 63}, TruncatedImage, "segment"),
        ({"offset": 1 << 63}, TruncatedImage, "segment"),
        ({"offset": 0xFFFF_FFFF_FFFF_FFFF}, TruncatedImage, "segment"),
        ({"memsz": 64 * MIB}, OutsideMemory, "not all RAM"),
        ({"memsz": 0xFFFF_FFFF_FFFF_FFFF}, OutsideMemory, "not all RAM"),
        ({"paddr": 64 * MIB}, OutsideMemory, "not all RAM"),
        ({"paddr": 0xFFFF_FFFF_FFFF_FFFE}, OutsideMemory, "not all RAM"),
        ({"paddr": 0xF_FFFF}, KernelTooLow, "0x100000"),
        ({"kind": 6}, MalformedImage, "nothing to load"),
    ],
)
def test_segments_are_checked(memory, elf_file, segment, values, error, words):
    """Every range of a segment is checked, in the file and in memory, without overflow."""
    with pytest.raises(error, match=words):
        load_kernel(memory, elf_file([segment(**{"paddr": 0x100_0000, "data": b"text"} | values)]))


def test_overlapping_segments_are_refused(memory, elf_file, segment):
    """Two segments for the same bytes contradict each other."""
    file = elf_file([segment(0x100_0000, b"text", memsz=0x1001), segment(0x100_1000, b"data")])
    with pytest.raises(MalformedImage, match="overlap"):
        load_kernel(memory, file)


def test_nothing_is_written_when_a_later_segment_is_bad(memory, elf_file, segment):
    """All checks come before the first byte."""
    file = elf_file([segment(0x100_0000, b"text"), segment(0x900_0000, b"data")])
    with pytest.raises(OutsideMemory):
        load_kernel(memory, file)
    assert memory.read(0x100_0000, 4) == bytes(4)


def test_high_ram_start_is_the_callers(memory, elf_file, segment):
    """The floor is a parameter."""
    file = elf_file([segment(0x20_0000, b"text")])
    assert load_kernel(memory, file, high_ram_start=0x20_0000).start == 0x20_0000
    with pytest.raises(KernelTooLow):
        load_kernel(memory, file, high_ram_start=0x20_0001)


@pytest.mark.parametrize("size", [1, 4, 5, 63, 64, 100, 119, 120, 123])
def test_truncation_anywhere_is_a_loader_error(memory, elf_file, segment, size):
    """A file cut off at any byte says so."""
    with pytest.raises(LoaderError):
        load_kernel(memory, elf_file([segment(0x100_0000, b"text")])[:size])


def test_a_file_that_shrinks_is_truncated(memory, elf_file, segment, tmp_path, monkeypatch):
    """A file that loses its end between the checks and the copy ends in TruncatedImage."""
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_file([segment(0x100_0000, b"text" * 4096)]))
    check_range = memory.check_range

    def shrink(*range_: int) -> bool:
        os.truncate(path, 200)
        return check_range(*range_)

    monkeypatch.setattr(type(memory), "check_range", lambda _self, *range_: shrink(*range_))
    with pytest.raises(TruncatedImage):
        load_kernel(memory, path)


def test_elf_load_refuses_what_is_no_elf(memory, bzimage_file):
    """The loader of one kind does not guess."""
    with pytest.raises(MalformedImage, match="ELF magic"):
        elf.load(memory, bzimage_file())
