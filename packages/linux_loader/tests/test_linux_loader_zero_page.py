"""The zero page, read back by the offsets of zero-page.rst."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux_loader import (
    BootParamsError,
    BootProtocol,
    CmdlineTooLong,
    E820Entry,
    E820Type,
    LoadedKernel,
    OutsideMemory,
    load_kernel,
    write_zero_page,
)
from vm_memory import GuestMemory

MIB = 1 << 20
ADDRESS = 0x7000
U64 = st.integers(0, (1 << 64) - 1)
ELF_KERNEL = LoadedKernel(BootProtocol.LINUX64, 16 * MIB, 16 * MIB, 20 * MIB)


def write(memory, kernel=ELF_KERNEL, **changes):
    """Write a zero page with plain values but for `changes`; return its bytes."""
    values = {
        "cmdline_addr": 0x2_0000,
        "cmdline_size": 5,
        "initramfs": None,
        "e820": [],
        "acpi_rsdp_addr": 0,
    } | changes
    write_zero_page(memory, ADDRESS, kernel=kernel, **values)
    return memory.read(ADDRESS, 4096)


def field(page: bytes, offset: int, size: int) -> int:
    return int.from_bytes(page[offset : offset + size], "little")


def test_an_elf_gets_a_header_of_its_own(memory):
    """Magic, version, loader type and flags are what a bzImage's loader would have set."""
    page = write(memory)
    assert page[0x202:0x206] == b"HdrS"
    assert field(page, 0x1FE, 2) == 0xAA55
    assert field(page, 0x206, 2) == 0x020C
    assert field(page, 0x210, 1) == 0xFF
    assert field(page, 0x211, 1) == 1
    assert field(page, 0x214, 4) == 16 * MIB
    assert field(page, 0x236, 2) == 1
    assert field(page, 0x238, 4) == 5


def test_a_bzimages_header_is_kept_but_for_what_loaders_write(memory, bzimage_file):
    """All bytes of the header are the file's except the fields that boot.rst gives to loaders."""
    file = bzimage_file(b"code" * 100, kernel_version=0x300, payload_length=77)
    kernel = load_kernel(memory, file)
    page = write(memory, kernel)
    expected = bytearray(file[0x1F1:0x26C])
    for offset, size, value in [
        (0x1FA, 2, 0xFFFF),
        (0x210, 1, 0xFF),
        (0x214, 4, kernel.start),
        (0x228, 4, 0x2_0000),
    ]:
        expected[offset - 0x1F1 : offset - 0x1F1 + size] = value.to_bytes(size, "little")
    assert page[0x1F1:0x26C] == expected


def test_nothing_behind_the_header_is_copied(memory, bzimage_file):
    """The file's code behind its header stays out of the page, and the sentinel stays 0."""
    page = write(memory, load_kernel(memory, bzimage_file()))
    assert page[0x26C:0x2D0] == bytes(0x2D0 - 0x26C)
    assert page[0x1EF] == 0


def test_the_page_is_clean(memory):
    """What was in memory before does not shine through."""
    memory.write(ADDRESS, b"\xaa" * 4096)
    page = write(memory)
    assert sum(page) == sum(page[0x1F1:0x26C])


def test_kernels_above_4g_have_no_code32_start(memory, bzimage_file):
    """A 32-bit field cannot name a place above 4 GiB; the 64-bit entry does not read it."""
    kernel = replace(ELF_KERNEL, start=4 << 30, entry=4 << 30, end=5 << 30)
    assert field(write(memory, kernel), 0x214, 4) == 0


@settings(deadline=None)
@given(initramfs=st.tuples(U64, U64), cmdline=U64, rsdp=U64)
def test_addresses_round_trip(initramfs, cmdline, rsdp):
    """64-bit addresses and sizes are split over the header's field and its ext_ twin."""
    with GuestMemory.from_ranges([(0, MIB)]) as memory:
        page = write(
            memory, initramfs=initramfs, cmdline_addr=cmdline, cmdline_size=0, acpi_rsdp_addr=rsdp
        )
    assert field(page, 0x218, 4) | field(page, 0x0C0, 4) << 32 == initramfs[0]
    assert field(page, 0x21C, 4) | field(page, 0x0C4, 4) << 32 == initramfs[1]
    assert field(page, 0x228, 4) | field(page, 0x0C8, 4) << 32 == cmdline
    assert field(page, 0x070, 8) == rsdp


ENTRIES = st.builds(
    lambda addr, size, kind: E820Entry(addr, min(size, (1 << 64) - addr), kind),
    U64,
    st.integers(1, (1 << 64) - 1),
    st.one_of(st.sampled_from(E820Type), st.integers(1, 0xFFFF_FFFF)),
)


@settings(deadline=None)
@given(st.lists(ENTRIES, max_size=128))
def test_the_memory_map_round_trips(entries):
    """Each entry is 20 bytes from 0x2d0 on, counted at 0x1e8; the rest of the table is 0."""
    with GuestMemory.from_ranges([(0, MIB)]) as memory:
        page = write(memory, e820=entries)
    count = page[0x1E8]
    read = [
        E820Entry(*struct.unpack_from("<QQI", page, 0x2D0 + 20 * index)) for index in range(count)
    ]
    assert read == entries
    assert not any(page[0x2D0 + 20 * count :])


def test_too_many_entries_are_refused(memory):
    """The table holds 128."""
    with pytest.raises(BootParamsError, match="129 entries"):
        write(memory, e820=[E820Entry(0, 1, E820Type.RAM)] * 129)


@pytest.mark.parametrize(
    "entry",
    [
        E820Entry(0, 0, E820Type.RAM),
        E820Entry(-1, 1, E820Type.RAM),
        E820Entry((1 << 64) - 1, 2, E820Type.RAM),
        E820Entry(0, 1, 0),
        E820Entry(0, 1, 1 << 32),
    ],
)
def test_entries_that_are_no_ranges_are_refused(memory, entry):
    """Empty ranges, addresses beyond 64 bits and type 0 have no meaning."""
    with pytest.raises(BootParamsError, match="memory map"):
        write(memory, e820=[entry])


@pytest.mark.parametrize(
    "changes",
    [
        {"cmdline_addr": 1 << 64},
        {"cmdline_addr": -1},
        {"initramfs": (1 << 64, 1)},
        {"initramfs": (0, -1)},
        {"acpi_rsdp_addr": 1 << 64},
    ],
)
def test_values_beyond_their_fields_are_refused(memory, changes):
    """Nothing is silently cut to 64 bits."""
    with pytest.raises(BootParamsError):
        write(memory, **changes)


def test_a_kernels_own_limit_of_the_command_line_holds(memory, bzimage_file):
    """cmdline_size of the header is the maximum, and stays the kernel's."""
    kernel = load_kernel(memory, bzimage_file(cmdline_size=255))
    assert field(write(memory, kernel, cmdline_size=255), 0x238, 4) == 255
    with pytest.raises(CmdlineTooLong, match="255 fit"):
        write(memory, kernel, cmdline_size=256)


def test_the_page_must_be_ram():
    """The page may end where RAM ends, and not a byte later."""
    with GuestMemory.from_ranges([(0, 0x8000)]) as memory:
        arguments = {
            "kernel": ELF_KERNEL,
            "cmdline_addr": 0,
            "cmdline_size": 0,
            "initramfs": None,
            "e820": [],
        }
        write_zero_page(memory, 0x7000, **arguments)
        with pytest.raises(OutsideMemory, match="zero page"):
            write_zero_page(memory, 0x7001, **arguments)
