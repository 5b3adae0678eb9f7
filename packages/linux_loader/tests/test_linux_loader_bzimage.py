"""bzImage kernels: the setup header, the load address, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux_loader import (
    BootProtocol,
    KernelTooLarge,
    LoaderError,
    LoadFlags,
    MalformedImage,
    SetupHeader,
    TruncatedImage,
    UnsupportedImage,
    XLoadFlags,
    bzimage,
    load_kernel,
)
from vm_memory import GuestMemory

MIB = 1 << 20
GIB = 1 << 30


def test_code_lands_at_the_preferred_address(memory, bzimage_file):
    """The protected-mode code is at pref_address, the entry 0x200 behind it."""
    kernel = load_kernel(memory, bzimage_file(b"code" * 1000))
    assert memory.read(16 * MIB, 4000) == b"code" * 1000
    assert (kernel.protocol, kernel.entry) == (BootProtocol.LINUX64, 16 * MIB + 0x200)
    assert (kernel.start, kernel.end) == (16 * MIB, 20 * MIB)


def test_end_covers_the_file_if_init_size_does_not(memory, bzimage_file):
    """Nothing may be placed over bytes that were loaded, whatever init_size says."""
    kernel = load_kernel(memory, bzimage_file(b"code" * 1000, init_size=16))
    assert kernel.end == 16 * MIB + 4000


def test_setup_sects_zero_means_four(memory, bzimage_file):
    """Old images leave the field 0 (boot.rst, setup_sects)."""
    load_kernel(memory, bzimage_file(b"code" * 8, setup_sects=0))
    assert memory.read(16 * MIB, 32) == b"code" * 8


def test_setup_header_ends_where_the_image_says(memory, bzimage_file):
    """The header is copied to the length that its jump declares, and no further."""
    file = bzimage_file(jump_reach=0x66)
    kernel = load_kernel(memory, file)
    assert kernel.setup_header == file[0x1F1:0x268]


def test_limits_come_from_the_header(memory, bzimage_file):
    """initrd_addr_max and cmdline_size are the kernel's own."""
    kernel = load_kernel(memory, bzimage_file(initrd_addr_max=0x37FF_FFFF, cmdline_size=255))
    assert (kernel.initrd_addr_max, kernel.cmdline_max) == (0x37FF_FFFF, 255)


def test_preferred_address_is_rounded_up_to_the_alignment(memory, bzimage_file):
    """The kernel runs at the next multiple of kernel_alignment, so it is loaded there."""
    assert load_kernel(memory, bzimage_file(pref_address=16 * MIB + 1)).start == 18 * MIB


def test_no_preference_means_the_lowest_aligned_address(memory, bzimage_file):
    """pref_address 0 is no preference."""
    assert load_kernel(memory, bzimage_file(pref_address=0)).start == 2 * MIB


def test_a_kernel_that_prefers_low_memory_goes_to_high_ram_start(memory, bzimage_file):
    """The floor of the caller wins over a relocatable kernel's wish."""
    kernel = load_kernel(memory, bzimage_file(pref_address=1 * MIB), high_ram_start=24 * MIB)
    assert kernel.start == 24 * MIB


def test_relocatable_kernel_moves_above_a_hole(bzimage_file):
    """Where the preferred place is no RAM, the next aligned RAM is taken."""
    with GuestMemory.from_ranges([(0, 17 * MIB), (32 * MIB + 4096, 8 * MIB)]) as memory:
        assert load_kernel(memory, bzimage_file()).start == 34 * MIB


def test_fixed_kernel_does_not_move(bzimage_file):
    """A kernel that is not relocatable goes to pref_address or nowhere."""
    with GuestMemory.from_ranges([(0, 17 * MIB), (32 * MIB, 8 * MIB)]) as memory:
        with pytest.raises(KernelTooLarge):
            load_kernel(memory, bzimage_file(relocatable_kernel=0))
        with pytest.raises(KernelTooLarge):
            load_kernel(
                memory,
                bzimage_file(relocatable_kernel=0, pref_address=4 * MIB),
                high_ram_start=8 * MIB,
            )
        kernel = load_kernel(memory, bzimage_file(relocatable_kernel=0, pref_address=4 * MIB + 1))
        assert kernel.start == 4 * MIB + 1


def test_init_size_must_fit(bzimage_file):
    """RAM for the file alone is not enough: the kernel unpacks itself in init_size bytes."""
    with GuestMemory.from_ranges([(0, 20 * MIB)]) as memory:
        assert load_kernel(memory, bzimage_file(init_size=4 * MIB)).end == 20 * MIB
        with pytest.raises(KernelTooLarge, match="more memory") as raised:
            load_kernel(memory, bzimage_file(init_size=4 * MIB + 1))
    assert (raised.value.size, raised.value.address) == (4 * MIB + 1, 16 * MIB)


def test_above_4g_only_if_the_kernel_can(bzimage_file):
    """XLF_CAN_BE_LOADED_ABOVE_4G decides whether memory above 4 GiB counts."""
    with GuestMemory.from_ranges([(0, MIB), (4 * GIB, 16 * MIB)]) as memory:
        with pytest.raises(KernelTooLarge):
            load_kernel(memory, bzimage_file(xloadflags=1))
        assert load_kernel(memory, bzimage_file(xloadflags=3)).start == 4 * GIB


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"boot_flag": 0}, MalformedImage, "boot flag"),
        ({"loadflags": 0}, UnsupportedImage, "zImage"),
        ({"version": 0x020B}, UnsupportedImage, r"2\.11"),
        ({"version": 0x0105}, UnsupportedImage, r"1\.05"),
        ({"xloadflags": 2}, UnsupportedImage, "64-bit entry"),
        ({"jump": 0xE9}, MalformedImage, "setup header"),
        ({"jump_reach": 0x65}, MalformedImage, "0x267"),
        ({"jump_reach": 0xFF}, MalformedImage, "0x301"),
        ({"kernel_alignment": 0}, MalformedImage, "alignment"),
        ({"kernel_alignment": 3}, MalformedImage, "alignment"),
        ({"init_size": 0}, MalformedImage, "init_size"),
        ({"initrd_addr_max": 0}, MalformedImage, "initrd_addr_max"),
        ({"syssize": 0xFFFF_FFFF}, TruncatedImage, "protected-mode code"),
        ({"syssize": 65}, TruncatedImage, "protected-mode code"),
        ({"pref_address": 0xFFFF_FFFF_FFFF_FFFF}, KernelTooLarge, "more memory"),
        ({"init_size": 0xFFFF_FFFF}, KernelTooLarge, "more memory"),
    ],
)
def test_header_is_checked(memory, bzimage_file, fields, error, words):
    """Each field of the setup header that matters has its own refusal."""
    with pytest.raises(error, match=words):
        load_kernel(memory, bzimage_file(**fields))


@pytest.mark.parametrize("size", [0x206, 0x237, 0x238, 0x26B, 0x26C, 1024, 2048, 2049, 3071])
def test_truncation_anywhere_is_a_loader_error(memory, bzimage_file, size):
    """A file cut off at any byte says so."""
    with pytest.raises(LoaderError, match="truncated"):
        load_kernel(memory, bzimage_file()[:size])


def test_bytes_behind_syssize_are_loaded_too(memory, bzimage_file):
    """A signature may follow the code; other boot loaders copy it along, so do we."""
    load_kernel(memory, bzimage_file(b"code" * 8) + b"signature")
    assert memory.read(16 * MIB + 32, 9) == b"signature"


def test_kernel_version_is_read_from_the_setup_code(bzimage_file):
    """kernel_version points at a NUL-terminated string in the setup code."""
    file = bytearray(bzimage_file(kernel_version=0x200))
    file[0x400:0x406] = b"6.1-x\0"
    assert bzimage.kernel_version(bytes(file)) == "6.1-x"
    assert bzimage.kernel_version(bzimage_file(kernel_version=0)) is None
    assert bzimage.kernel_version(bzimage_file(kernel_version=0xFFFF)) is None


def test_bzimage_load_refuses_what_is_none(memory, elf_file, segment):
    """The loader of one kind does not guess."""
    with pytest.raises(LoaderError):
        bzimage.load(memory, elf_file([segment(0x100_0000, b"text" * 200)]))


HEADERS = st.fixed_dictionaries(
    {
        "setup_sects": st.integers(1, 8),
        "version": st.integers(0x020C, 0xFFFF),
        "loadflags": st.integers(0, 255).map(lambda flags: flags | 1),
        "initrd_addr_max": st.integers(1, 0xFFFF_FFFF),
        "kernel_alignment": st.integers(0, 31).map(lambda shift: 1 << shift),
        "relocatable_kernel": st.integers(0, 255),
        "xloadflags": st.integers(0, 0xFFFF).map(lambda flags: flags | 1),
        "cmdline_size": st.integers(0, 0xFFFF_FFFF),
        "payload_offset": st.integers(0, 0xFFFF_FFFF),
        "payload_length": st.integers(0, 0xFFFF_FFFF),
        "pref_address": st.integers(0, (1 << 64) - 1),
        "init_size": st.integers(1, 0xFFFF_FFFF),
    }
)


@settings(deadline=None)
@given(HEADERS)
def test_header_fields_round_trip(bzimage_file, fields):
    """Every field is read from where boot.rst puts it."""
    from linux_loader.image import Image  # noqa: PLC0415

    with Image(bzimage_file(**fields), "kernel") as image:
        header = SetupHeader.read(image)
    read = {name: getattr(header, name) for name in fields.keys() & set(dir(header))}
    assert read == {name: fields[name] for name in read}
    assert len(read) == 10
    assert header.setup_size == (fields["setup_sects"] + 1) * 512
    assert header.relocatable == bool(fields["relocatable_kernel"])
    assert header.protected_mode_size == 1024
    assert header.loadflags & LoadFlags.LOADED_HIGH
    assert header.xloadflags & XLoadFlags.XLF_KERNEL_64


PAGE = 4096
UNITS = 64  # the model's RAM: 64 pieces of 1 MiB


@settings(deadline=None)
@given(
    present=st.lists(st.booleans(), min_size=UNITS, max_size=UNITS),
    pref=st.integers(0, UNITS),
    size=st.integers(1, 20),
    shift=st.integers(0, 3),
    relocatable=st.booleans(),
    floor=st.integers(1, 8),
)
def test_load_address_agrees_with_a_naive_search(  # noqa: PLR0917
    bzimage_file, present, pref, size, shift, relocatable, floor
):
    """The address is the first that is aligned, high enough, and has RAM for all of init_size."""
    ranges = [(i * MIB, MIB) for i, there in enumerate(present) if there]
    lowest = max(pref, floor)
    candidates = range(lowest, UNITS) if relocatable else range(pref, pref + 1)
    expected = next(
        (
            unit * MIB
            for unit in candidates
            if unit >= floor
            and (not relocatable or unit % (1 << shift) == 0)
            and unit + size <= UNITS
            and all(present[unit : unit + size])
        ),
        None,
    )
    file = bzimage_file(
        pref_address=pref * MIB,
        init_size=size * MIB,
        kernel_alignment=MIB << shift,
        relocatable_kernel=int(relocatable),
    )
    with GuestMemory.from_ranges(ranges or [(1 << 40, PAGE)]) as memory:
        try:
            found = load_kernel(memory, file, high_ram_start=floor * MIB).start
        except KernelTooLarge:
            found = None
    assert found == expected


def test_header_of_the_file_is_little_endian(memory, bzimage_file):
    """The bytes that are kept are the file's."""
    kernel = load_kernel(memory, bzimage_file(version=0x020D))
    assert struct.unpack_from("<H", kernel.setup_header, 0x206 - 0x1F1) == (0x020D,)
