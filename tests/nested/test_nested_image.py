"""What goes into the emulated machine, and where."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import image
import python_tree
import qemu

from vmm_reference.guest_assets import GuestImage, cpio, default_guest
from vmm_reference.guest_assets.modules import Module

LDD = """\
/usr/bin/python3.11:
\tlinux-vdso.so.1 (0x00007ffd2a5f2000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f3c5a2b0000)
\tlibodd.so => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f3c5a3c8000)
/usr/lib/x.so:
\tstatically linked
"""


def test_parse_ldd_takes_the_paths():
    """The vDSO is the kernel's, and what is not found here cannot be brought along."""
    names = {"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"}
    assert python_tree.parse_ldd(LDD) == {Path(name) for name in names}


def test_tree_takes_sources_and_their_compiled_form(tmp_path):
    """Left out are stale or optimised compiled forms, and what no test imports."""
    cached = tmp_path / "__pycache__"
    wanted = [tmp_path / "a.py", cached / f"a.{sys.implementation.cache_tag}.pyc"]
    others = [cached / "a.cpython-27.pyc", tmp_path / "test" / "b.py", tmp_path / "lib.a"]
    for path in (*wanted, *others):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert sorted(python_tree.tree(tmp_path)) == sorted(wanted)


def test_the_files_hold_interpreter_library_and_loader():
    """None of them would be missed before the machine runs."""
    files = python_tree.files()
    assert Path(sys.executable) in files
    assert Path(os.__file__) in files
    assert any(path.name.startswith("ld-linux") or "ld-musl" in path.name for path in files)
    assert any(path.name.startswith("libc.") for path in files)


def test_host_entries_keep_paths_links_and_times(tmp_path):
    """A link stays one only if its target comes too; a compiled module needs its source's time."""
    (tmp_path / "real").write_bytes(b"data")
    os.utime(tmp_path / "real", (1000, 1000))
    (tmp_path / "link").symlink_to("real")
    prefix = str(tmp_path).lstrip("/")
    both = {tmp_path / "real", tmp_path / "link"}
    link, real = image.host_entries(both)
    assert link == cpio.symlink(f"{prefix}/link", "real")
    assert (real.name, real.data, real.mtime) == (f"{prefix}/real", b"data", 1000)
    (alone,) = image.host_entries({tmp_path / "link"})
    assert (stat.S_ISREG(alone.mode), alone.data) == (True, b"data")


def test_with_folders_creates_each_missing_folder_once_and_first():
    """The kernel makes no folders of its own accord, and must not replace those it has."""
    files = [cpio.regular_file("lib/a/b/x", b""), cpio.regular_file("lib/a/y", b"")]
    entries = image.with_folders(files, existing=["lib"])
    assert [entry.name for entry in entries] == ["lib/a", "lib/a/b", "lib/a/b/x", "lib/a/y"]
    assert stat.S_ISDIR(entries[0].mode)


def test_modules_sort_in_loading_order():
    """The machine loads `/lib/nested/*.ko` as the shell sorts them."""
    modules = [Module(name, f"{name}.ko", b"", (), ()) for name in ("z", "m", "a")]
    names = [entry.name for entry in image.module_entries(modules)]
    assert names == sorted(names)
    assert [name.partition("-")[2] for name in names] == ["z.ko", "m.ko", "a.ko"]


def test_cache_in_the_machine_is_complete(tmp_path):
    """`default_guest` inside finds its guest, compares no checksums and asks no network."""
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "initramfs").write_bytes(b"files")
    guest = GuestImage(tmp_path / "vmlinuz", None, tmp_path / "initramfs", "", "6.1 (Debian)")
    cache = tmp_path / "cache"
    cache.mkdir()
    for entry in image.cache_entries(guest):
        path = cache / Path(entry.name).name
        path.write_bytes(entry.data)
        os.utime(path, (entry.mtime, entry.mtime))
    before = {path: path.read_bytes() for path in cache.iterdir()}
    found = default_guest(cache=cache)
    assert (found.kernel.read_bytes(), found.initramfs.read_bytes()) == (b"kernel", b"files")
    assert found.version == "6.1 (Debian)"
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


def test_join_aligns_each_archive():
    """The kernel looks for the next archive at a multiple of four bytes."""
    assert image.join(b"abcde", b"f") == b"abcde\0\0\0f\0\0\0"


def test_qemu_command_has_the_four_ports_in_order(tmp_path):
    """Console, output, errors, status: the order of the exec protocol."""
    command = qemu.qemu_command(Path("k"), Path("i"), "quiet", tmp_path)
    ports = [word for word in command if word.startswith("file:")]
    assert [Path(port).name for port in ports] == ["console", "output", "errors", "status"]


def test_the_script_of_the_machine_is_a_shell_script():
    """It runs under busybox, so plain sh must take it."""
    script = Path(__file__).parent / "inside" / "run.sh"
    subprocess.run(["sh", "-n", script], check=True)
