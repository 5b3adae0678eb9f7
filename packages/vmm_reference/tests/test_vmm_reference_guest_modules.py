"""Kernel modules: their own words about themselves, and the order they are loaded in."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm_reference.guest_assets.errors import Cause, GuestAssetsError
from vmm_reference.guest_assets.kernel import is_static, load_modules
from vmm_reference.guest_assets.modules import (
    Module,
    ModuleError,
    closure,
    is_module,
    module_name,
    modules_alias,
    modules_dep,
    parse_module,
)


def module_file(*strings):
    """The smallest ELF file with a section .modinfo that holds `strings`."""
    names = b"\0.modinfo\0.shstrtab\0"
    info = b"".join(text.encode() + b"\0" for text in strings)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    sections_at = 64 + len(names) + len(info)
    header = struct.pack("<2HI3QI6H", 1, 62, 1, 0, 0, sections_at, 0, 64, 0, 0, 64, 3, 2)
    sections = (
        bytes(64),
        struct.pack("<2I4Q2I2Q", 1, 1, 0, 0, 64 + len(names), len(info), 0, 0, 1, 0),
        struct.pack("<2I4Q2I2Q", 10, 3, 0, 0, 64, len(names), 0, 0, 1, 0),
    )
    return ident + header + names + info + b"".join(sections)


def module(name, *depends):
    return Module(name, f"kernel/{name}.ko", b"", depends, ())


graphs = st.dictionaries(
    st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefghxy"), max_size=4), max_size=8
).map(lambda graph: {name: module(name, *needs) for name, needs in graph.items()})
wishes = st.lists(st.sampled_from("abcdefghxy"), max_size=5)


def reachable(wanted, available):
    found = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in available and name not in found:
            found.add(name)
            pending.extend(available[name].depends)
    return found


def reaches(start, goal, available):
    return goal in reachable(available[start].depends, available)


@settings(deadline=None)
@given(graphs, wishes)
def test_the_closure_is_complete_and_without_repetition(available, wanted):
    """It holds exactly what can be reached, each module once."""
    names = [found.name for found in closure(wanted, available)]
    assert sorted(names) == sorted(reachable(wanted, available))


@settings(deadline=None)
@given(graphs, wishes)
def test_a_module_follows_what_it_needs(available, wanted):
    """Loading in order never misses a dependency; only a cycle, which none can load, is exempt."""
    names = [found.name for found in closure(wanted, available)]
    for position, name in enumerate(names):
        for need in available[name].depends:
            if need in available and not reaches(need, name, available):
                assert need in names[:position]


def test_a_module_that_names_itself_still_follows_what_it_needs():
    """Depending on oneself is a cycle of one, not a reason to come first."""
    available = {"a": module("a"), "c": module("c", "c", "a")}
    assert [found.name for found in closure(["c"], available)] == ["a", "c"]


def test_dashes_and_underscores_are_the_same_in_names():
    """As for modprobe, virtio-rng is virtio_rng."""
    available = {"virtio_rng": module("virtio_rng")}
    assert closure(["virtio-rng"], available) == [available["virtio_rng"]]


def test_a_module_tells_its_needs_and_devices():
    """Dependencies and aliases come from .modinfo; the path loses the compression."""
    data = module_file("license=GPL", "depends=virtio,virtio-ring", "alias=virtio:d2v*", "alias=b")
    assert parse_module("kernel/a/virtio-blk.ko.gz", gzip.compress(data)) == Module(
        "virtio_blk",
        "kernel/a/virtio-blk.ko",
        data,
        ("virtio", "virtio_ring"),
        ("virtio:d2v*", "b"),
    )


def test_no_dependency_is_an_empty_tuple():
    """`depends=` without a name means none."""
    data = module_file("depends=")
    assert parse_module("x.ko.xz", lzma.compress(data)).depends == ()


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh", b"\x7fELF\x02\x01" + bytes(60), bytes(100)])
def test_what_is_no_module_is_refused(data):
    """Foreign and truncated files raise ModuleError."""
    with pytest.raises(ModuleError):
        parse_module("x.ko", data)


def test_a_section_table_beyond_any_address_is_refused():
    """An offset of 2^63 and more is damage, and no OverflowError."""
    contents = bytearray(module_file("depends=a"))
    contents[0x2F] = 0x80
    with pytest.raises(ModuleError, match="damaged ELF section table"):
        parse_module("x.ko", bytes(contents))


@settings(deadline=None)
@given(st.data())
def test_a_damaged_module_never_ends_in_another_error(data):
    """Any changed byte gives a module or ModuleError."""
    contents = bytearray(module_file("depends=a", "alias=b"))
    contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModuleError):
        parse_module("x.ko", bytes(contents))


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2", ".lzma", ".unknown"])
def test_damaged_or_unknown_compression_is_refused(suffix):
    """The error is a ModuleError whatever the decompressor would raise."""
    with pytest.raises(ModuleError):
        parse_module(f"x.ko{suffix}", b"damaged")


def test_module_file_names():
    """Only .ko files, compressed or not, are modules; the name ignores folders and suffixes."""
    assert [is_module(path) for path in ("a/b.ko", "b.ko.xz", "b.kox", "modules.dep")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert module_name("kernel/drivers/pvpanic-mmio.ko.zst") == "pvpanic_mmio"


def test_modprobes_index_files():
    """modules.dep lists the nearest need first, modules.alias one line for each alias."""
    a, b = module("a"), module("b", "a")
    c = Module("c", "kernel/c.ko", b"", ("b",), ("pci:v1d2*", "acpi*:X:*"))
    assert modules_dep([a, b, c]) == (
        "kernel/a.ko:\nkernel/b.ko: kernel/a.ko\nkernel/c.ko: kernel/b.ko kernel/a.ko\n"
    )
    assert modules_alias([a, b, c]) == "alias pci:v1d2* c\nalias acpi*:X:* c\n"


def test_only_what_is_needed_is_read():
    """Out of a thousand module files, those that are wanted and their needs are opened."""
    files = {
        "kernel/a.ko": module_file("depends=b-c"),
        "kernel/b-c.ko": module_file("depends="),
        "kernel/d.ko": b"never looked at",
    }
    found = load_modules(["a", "absent"], files, files.__getitem__)
    assert [item.name for item in found] == ["b_c", "a"]


def test_an_unusable_module_is_a_bad_package():
    """The user reads which module it was."""
    with pytest.raises(GuestAssetsError, match=r"kernel/a\.ko") as caught:
        load_modules(["a"], ["kernel/a.ko"], lambda _path: b"?")
    assert caught.value.cause is Cause.BAD_PACKAGE


def elf_program(*segment_types):
    header = struct.pack("<2HI3QI6H", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(segment_types), 0, 0, 0)
    segments = b"".join(struct.pack("<I", kind).ljust(56, b"\0") for kind in segment_types)
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + header + segments


def test_a_static_program_has_no_interpreter():
    """PT_INTERP (3) among the segments means that the program needs a loader."""
    assert is_static(elf_program(1, 1))
    assert not is_static(elf_program(1, 3, 1))
    assert not is_static(b"#!/bin/sh\n")
    assert not is_static(b"")
