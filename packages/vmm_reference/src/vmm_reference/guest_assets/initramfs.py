"""The guest's root file system, put together from busybox, kernel modules and our own files.

Unpacking happens in the guest, so what counts is what an emulated processor spends on it. Measured
with QEMU's instruction counter (TCG, `-icount shift=2`, Linux 6.1, time until init has mounted
/proc, 2124 ms as it is): gzip adds 219 ms, so the archive stays uncompressed; 1 MB of contents
costs 13 ms, so only modules for devices of this VMM are in it (0.9 MB); the links to busybox cost
13 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm_reference.guest_assets import cpio, init_script, raw_ports
from vmm_reference.guest_assets.modules import Module, modules_alias, modules_dep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DIRECTORIES = (
    "bin", "dev", "etc", "etc/udhcpc", "etc/py-vmm", "etc/py-vmm/late", "etc/py-vmm/late/dev",
    "etc/py-vmm/late/dev/pts", "etc/py-vmm/late/dev/shm", "lib", "lib/modules", "mnt", "proc",
    "root", "run", "sys", "usr", "usr/local", "usr/local/bin", "usr/local/sbin", "var",
)  # fmt: skip

_LINKS = (("usr/bin", "../bin"), ("usr/sbin", "../bin"), ("var/run", "../run"))

# What init copies to the root once /dev is mounted. /sbin comes this late because the kernel would
# otherwise start /sbin/modprobe several times before the first process: 1 % of a boot.
_LATE_LINKS = (
    ("sbin", "bin"), ("dev/fd", "/proc/self/fd"), ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"), ("dev/stderr", "/proc/self/fd/2"),
)  # fmt: skip

# busybox's shell runs its own applets without a file; these are for `#!` lines, for the kernel
# and for absolute paths in people's scripts.
_APPLETS = (
    "ash", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname",
    "dmesg", "echo", "env", "expr", "false", "find", "free", "getty", "grep", "gunzip", "gzip",
    "halt", "head", "hexdump", "hostname", "httpd", "id", "ifconfig", "insmod", "ip", "kill",
    "less", "ln", "login", "losetup", "ls", "lsmod", "md5sum", "mkdir", "mknod", "mktemp",
    "modinfo", "modprobe", "more", "mount", "mv", "nc", "netstat", "nproc", "od", "ping",
    "poweroff", "printf", "ps", "pwd", "readlink", "reboot", "rm", "rmdir", "rmmod", "route", "sed",
    "seq", "sh", "sha256sum", "sleep", "sort", "stat", "stty", "swapon", "sync", "tail", "tar",
    "tee", "test", "time", "timeout", "top", "touch", "tr", "true", "udhcpc", "umount", "uname",
    "uniq", "uptime", "vi", "wc", "wget", "which", "xargs", "yes", "zcat",
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
    yield cpio.directory("tmp", 0o1777)
    # The kernel opens it for the first process, before anything is mounted.
    yield cpio.character_device("dev/console", 5, 1)
    yield cpio.regular_file("init", init_script.INIT.encode(), 0o755)
    yield cpio.regular_file("bin/busybox", busybox, 0o755)
    yield cpio.regular_file("bin/raw-ports", raw_ports.program(), 0o755)
    for applet in _APPLETS:
        yield cpio.symlink(f"bin/{applet}", "busybox")
    for name, target in _LINKS:
        yield cpio.symlink(name, target)
    for name, target in _LATE_LINKS:
        yield cpio.symlink(f"etc/py-vmm/late/{name}", target)
    for name, text in (
        ("fstab", init_script.FSTAB),
        ("group", init_script.GROUPS),
        ("hosts", init_script.HOSTS),
        ("passwd", init_script.ACCOUNTS),
        ("profile", init_script.PROFILE),
    ):
        yield cpio.regular_file(f"etc/{name}", text.encode())
    yield cpio.regular_file("etc/udhcpc/default.script", init_script.UDHCPC.encode(), 0o755)
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
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found.update("/".join((folder, *parts[: depth + 1])) for depth in range(len(parts)))
    return sorted(found)
