"""The offsets that the tests and the loaders use are those of the kernel's own header."""

from __future__ import annotations

import shutil
import subprocess

import pytest

# struct boot_params member: offset that zero_page.py and setup_header.py use
OFFSETS = {
    "acpi_rsdp_addr": 0x070,
    "ext_ramdisk_image": 0x0C0,
    "ext_ramdisk_size": 0x0C4,
    "ext_cmd_line_ptr": 0x0C8,
    "e820_entries": 0x1E8,
    "sentinel": 0x1EF,
    "hdr": 0x1F1,
    "hdr.syssize": 0x1F4,
    "hdr.vid_mode": 0x1FA,
    "hdr.boot_flag": 0x1FE,
    "hdr.jump": 0x200,
    "hdr.header": 0x202,
    "hdr.version": 0x206,
    "hdr.kernel_version": 0x20E,
    "hdr.type_of_loader": 0x210,
    "hdr.loadflags": 0x211,
    "hdr.code32_start": 0x214,
    "hdr.ramdisk_image": 0x218,
    "hdr.ramdisk_size": 0x21C,
    "hdr.cmd_line_ptr": 0x228,
    "hdr.initrd_addr_max": 0x22C,
    "hdr.kernel_alignment": 0x230,
    "hdr.relocatable_kernel": 0x234,
    "hdr.xloadflags": 0x236,
    "hdr.cmdline_size": 0x238,
    "hdr.payload_offset": 0x248,
    "hdr.payload_length": 0x24C,
    "hdr.pref_address": 0x258,
    "hdr.init_size": 0x260,
    "e820_table": 0x2D0,
}


def test_offsets_are_the_kernels(tmp_path):
    """The compiler agrees with every offset of boot_params and both sizes."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    checks = [
        f"_Static_assert(offsetof(struct boot_params, {member}) == {offset}, {member!r});"
        for member, offset in OFFSETS.items()
    ]
    source = tmp_path / "layout.c"
    source.write_text(
        "\n".join(
            [
                "#include <stddef.h>",
                "#include <asm/bootparam.h>",
                *checks,
                '_Static_assert(sizeof(struct boot_params) == 4096, "page");',
                '_Static_assert(sizeof(struct boot_e820_entry) == 20, "entry");',
            ]
        ).replace("'", '"')
    )
    done = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
