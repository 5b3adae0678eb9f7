"""Whatever a file holds: a loaded kernel that lies in RAM, or a LoaderError."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linux_loader import (
    EmptyImage,
    ForeignImage,
    ImageFormat,
    LoaderError,
    UnreadableImage,
    extract_vmlinux,
    identify,
    load_initramfs,
    load_kernel,
)
from vm_memory import GuestMemory

MIB = 1 << 20


def load_and_check(file: bytes) -> None:
    """Load into 32 MiB; if that works, the kernel must lie in them."""
    with GuestMemory.from_ranges([(0, 32 * MIB)]) as memory, suppress(LoaderError):
        kernel = load_kernel(memory, file)
        assert MIB <= kernel.start <= kernel.entry < kernel.end <= 32 * MIB
        assert kernel.initrd_addr_max > 0


def overwrite(file: bytes, patches: list[tuple[int, bytes]]) -> bytes:
    mutated = bytearray(file)
    for offset, patch in patches:
        mutated[offset : offset + len(patch)] = patch
    return bytes(mutated)


def patches(start: int, end: int) -> st.SearchStrategy[list[tuple[int, bytes]]]:
    """A few overwritten pieces between two offsets, often with extreme values."""
    piece = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([b"\xff" * 8, bytes(8), b"\xff" * 4, bytes(4), b"\x7f", b"\x80"]),
    )
    return st.lists(st.tuples(st.integers(start, end), piece), min_size=1, max_size=5)


@settings(deadline=None)
@given(st.binary(max_size=2048))
@example(b"\x7fELF")
@example(b"\x7fELF\x02\x01\x01" + bytes(57))
@example(bytes(0x202) + b"HdrS")
def test_random_bytes_end_in_loader_errors(data):
    """Bytes that nobody meant as a kernel never raise anything else."""
    load_and_check(data)
    with suppress(LoaderError):
        extract_vmlinux(data)
    with suppress(LoaderError):
        identify(data)


@settings(deadline=None)
@given(st.binary(max_size=512), st.binary(max_size=128))
def test_random_bytes_behind_the_magic_end_in_loader_errors(head, tail):
    """Bytes that begin as a kernel does never raise anything else."""
    load_and_check(b"\x7fELF\x02\x01\x01" + head)
    image = bytearray(0x400) + tail
    image[0x1F1 : 0x1F1 + len(head)] = head
    image[0x1FE:0x206] = b"\x55\xaa\xeb\x6aHdrS"
    load_and_check(bytes(image))


@settings(deadline=None)
@given(patches(0, 64 + 3 * 56 + 60))
def test_mutated_elf_loads_into_ram_or_is_refused(elf_file, segment, elf_note, patch):
    """No header field leads outside RAM or out of the error tree."""
    note = elf_note(b"Xen\0", 18, b"\0\0\0\1")
    file = elf_file(
        [
            segment(0x100_0000, b"text" * 16, memsz=0x1000),
            segment(0x110_0000, b"data", memsz=0x1000),
            segment(0, note, kind=4, align=4),
        ]
    )
    load_and_check(overwrite(file, patch))


@settings(deadline=None)
@given(patches(0x1F0, 0x270))
def test_mutated_bzimage_loads_into_ram_or_is_refused(vmlinuz_file, patch):
    """No setup header field leads outside RAM or out of the error tree."""
    mutated = overwrite(vmlinuz_file(b"\x7fELF" + bytes(100), 104), patch)
    load_and_check(mutated)
    with suppress(LoaderError):
        extract_vmlinux(mutated, limit=MIB)


FOREIGN = {
    "arm64 kernel": bytes(0x38) + b"ARM\x64" + bytes(100),
    "arm64 kernel ": b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(100),
    "RISC-V": bytes(0x38) + b"RSC\x05",
    "32-bit ARM": bytes(0x24) + b"\x18\x28\x6f\x01",
    "zboot": b"MZ\0\0zimg",
    "PE/EFI": b"MZ" + bytes(200),
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x02\x21\x4c\x18",
    "cpio": b"070701" + b"0" * 104,
    "Debian package": b"!<arch>\ndebian-binary",
    "qcow2": b"QFI\xfb",
    "tar": bytes(257) + b"ustar",
    "script": b"#!/bin/sh\n",
    "text": "grüße, dies ist kein Kern\n".encode(),
    "text ": ("ü" * 3000).encode(),
    "zeros": bytes(5000),
    "disk image": bytes(0x1FE) + b"\x55\xaa" + bytes(1024),
    "01 02 03": b"\x01\x02\x03\xff" * 100,
}


@pytest.mark.parametrize("words", FOREIGN)
def test_foreign_files_are_named(memory, words):
    """The message says what the file looks like instead of a kernel."""
    with pytest.raises(ForeignImage, match=words.strip()) as raised:
        load_kernel(memory, FOREIGN[words])
    assert words.strip() in raised.value.looks_like


def test_both_formats_are_identified(elf_file, segment, bzimage_file, tmp_path):
    """Identifying reads magic numbers alone."""
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_file([segment(0)]))
    assert identify(path) is ImageFormat.ELF
    assert identify(bzimage_file()) is ImageFormat.BZIMAGE


@pytest.mark.parametrize("load", [load_kernel, load_initramfs])
class TestUnusableSources:
    """Both kinds of file refuse what cannot be read, in one sentence."""

    def test_empty_file(self, memory, tmp_path, load):
        """No bytes are EmptyImage."""
        path = tmp_path / "empty"
        path.touch()
        with pytest.raises(EmptyImage, match="empty is empty"):
            load(memory, path)

    def test_missing_file(self, memory, tmp_path, load):
        """A missing file is an OSError with its errno too."""
        with pytest.raises(UnreadableImage, match="no such file") as raised:
            load(memory, tmp_path / "missing")
        assert isinstance(raised.value, OSError)
        assert raised.value.errno == 2

    def test_directory(self, memory, tmp_path, load):
        """A directory is named as one."""
        with pytest.raises(UnreadableImage, match="directory"):
            load(memory, tmp_path)

    def test_fifo_does_not_hang(self, memory, tmp_path, load):
        """A FIFO without writer would block a plain open for ever."""
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(UnreadableImage, match="regular"):
            load(memory, tmp_path / "fifo")

    def test_device(self, memory, load):
        """A device has no size, so it is refused."""
        with pytest.raises(UnreadableImage, match="regular"):
            load(memory, "/dev/zero")

    def test_path_with_nul(self, memory, load):
        """A path that no system call takes is unreadable."""
        with pytest.raises(UnreadableImage, match="null"):
            load(memory, "vm\0linux")

    def test_overlong_path(self, memory, load):
        """A name that the file system refuses is unreadable."""
        with pytest.raises(UnreadableImage, match="too long"):
            load(memory, "x" * 5000)

    def test_closed_file(self, memory, tmp_path, load):
        """A closed file cannot be read."""
        path = tmp_path / "file"
        path.write_bytes(b"content")
        file = path.open("rb")
        file.close()
        with pytest.raises(UnreadableImage, match="closed"):
            load(memory, file)

    def test_text_file_object(self, memory, tmp_path, load):
        """A file opened as text holds characters, not bytes."""
        path = tmp_path / "file"
        path.write_bytes(b"content")
        with path.open() as file, pytest.raises(UnreadableImage, match="binary"):
            load(memory, file)

    def test_write_only_file(self, memory, tmp_path, load):
        """A file that is open for writing alone cannot be read."""
        path = tmp_path / "file"
        path.write_bytes(b"content")
        with path.open("ab") as file, pytest.raises(UnreadableImage, match="cannot be read"):
            load(memory, file)


def test_unreadable_file(memory, monkeypatch):
    """Without permission the message says so."""

    def refuse(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreadableImage, match="permission denied") as raised:
        load_kernel(memory, "vmlinuz")
    assert raised.value.errno == errno.EACCES
