"""The guest's root file system, put together from busybox, kernel modules and our own files.

The archive stays uncompressed: unpacking happens in the guest, where an emulated processor pays
for every byte of a decompressor, while the host loads a few MB more in a millisecond. For the same
reason it holds the modules for the devices that this VMM offers and no others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from vmm_reference.guest_assets import cpio, init_script
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError
from vmm_reference.guest_assets.modules import Module, modules_alias, modules_dep

# Linux: MAX_ARG_STRLEN (include/uapi/linux/binfmts.h) is 32 pages, with the closing NUL.
MAX_COMMAND = 32 * 4096 - 1

_DIRECTORIES = (
    "bin", "dev", "etc", "etc/py-vmm", "lib", "lib/modules", "mnt", "proc", "root", "run",
    "sys", "usr", "usr/local", "usr/local/bin", "usr/local/sbin", "var",
)  # fmt: skip

# Programs are looked up in /bin alone; /sbin stays empty so that the kernel finds no
# /sbin/modprobe, which it would start several times before the first process runs.
_LINKS = (("usr/bin", "../bin"), ("usr/sbin", "../bin"), ("var/run", "../run"))

# busybox's shell runs its own applets without a file; these are for `#!` lines, for the kernel
# and for absolute paths in people's scripts.
_APPLETS = (
    "ash", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname",
    "dmesg", "echo", "env", "expr", "false", "find", "free", "getty", "grep", "gunzip", "gzip",
    "halt", "head", "hexdump", "hostname", "id", "ifconfig", "insmod", "ip", "kill", "less", "ln",
    "login", "losetup", "ls", "lsmod", "md5sum", "mkdir", "mknod", "mktemp", "modinfo", "modprobe",
    "more", "mount", "mv", "nc", "netstat", "nproc", "od", "ping", "poweroff", "printf", "ps", "pwd",
    "readlink", "reboot", "rm", "rmdir", "rmmod", "route", "sed", "seq", "sh", "sha256sum", "sleep",
    "sort", "stat", "stty", "swapon", "sync", "tail", "tar", "tee", "test", "time", "timeout", "top",
    "touch", "tr", "true", "udhcpc", "umount", "uname", "uniq", "uptime", "vi", "wc", "wget",
    "which", "xargs", "yes", "zcat",
)  # fmt: skip


def build(busybox: bytes, release: str, modules: Sequence[Module]) -> bytes:
    """The initramfs for the kernel `release` (as `uname -r` prints it).

    The same arguments give the same bytes.

    Args:
        busybox: a statically linked busybox with the standalone shell.
        release: names the folder below /lib/modules.
        modules: what `modprobe` can load, each after what it depends on.
    """
    return cpio.write_archive(_entries(busybox, release, modules))


def _entries(busybox: bytes, release: str, modules: Sequence[Module]) -> Iterator[cpio.Entry]:
    yield from map(cpio.directory, _DIRECTORIES)
    yield cpio.directory("sbin")
    yield cpio.directory("tmp", 0o1777)
    # The kernel opens it for the first process, before anything is mounted.
    yield cpio.character_device("dev/console", 5, 1)
    yield cpio.regular_file("init", init_script.INIT.encode(), 0o755)
    yield cpio.regular_file("bin/busybox", busybox, 0o755)
    for applet in _APPLETS:
        yield cpio.symlink(f"bin/{applet}", "busybox")
    for name, target in _LINKS:
        yield cpio.symlink(name, target)
    for name, text in (
        ("fstab", init_script.FSTAB),
        ("group", init_script.GROUP),
        ("hosts", init_script.HOSTS),
        ("passwd", init_script.PASSWD),
        ("profile", init_script.PROFILE),
    ):
        yield cpio.regular_file(f"etc/{name}", text.encode())
    yield from _module_entries(f"lib/modules/{release}", modules)


def _module_entries(folder: str, modules: Sequence[Module]) -> Iterator[cpio.Entry]:
    yield cpio.directory(folder)
    yield from map(cpio.directory, _parents(folder, (module.path for module in modules)))
    for module in modules:
        yield cpio.regular_file(f"{folder}/{module.path}", module.data)
    yield cpio.regular_file(f"{folder}/modules.dep", modules_dep(modules).encode())
    yield cpio.regular_file(f"{folder}/modules.alias", modules_alias(modules).encode())


def _parents(folder: str, paths: Iterable[str]) -> list[str]:
    """Every folder between `folder` and the files `paths` below it, parents first."""
    found = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found.update("/".join((folder, *parts[: depth + 1])) for depth in range(len(parts)))
    return sorted(found)


def exec_overlay(command: str) -> bytes:
    """A small archive that makes the guest run `command` instead of an interactive shell.

    It goes behind the initramfs in memory (the kernel unpacks concatenated archives), so the
    command may hold any bytes but NUL; bytes that were no UTF-8 on the host's command line arrive
    as they were (PEP 383).

    Raises:
        GuestAssetsError: the command holds a NUL or is longer than one argument may be.
    """
    text = os.fsencode(command)
    if b"\0" in text:
        raise GuestAssetsError(
            Cause.BAD_COMMAND, "the command holds a NUL byte", "no shell can run that"
        )
    if len(text) > MAX_COMMAND:
        raise GuestAssetsError(
            Cause.BAD_COMMAND,
            f"the command is {len(text)} bytes long and Linux takes at most {MAX_COMMAND}",
            "put the script on a disk",
        )
    return cpio.write_archive([cpio.regular_file("etc/py-vmm/exec", text)])
