"""A kernel and the programs for its guest, from Debian packages or from this host.

Both sources end as the same `Ingredients`, from which `guest` makes the files of the cache.
"""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vmm_reference.guest_assets import deb
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError
from vmm_reference.guest_assets.modules import (
    Module,
    ModuleError,
    closure,
    is_module,
    module_name,
    parse_module,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# Drivers of the devices that this VMM has or will have; those that a kernel has built in or does
# not know are skipped. About 1.1 MB with what they depend on (Debian 12, kernel 6.1).
WANTED_MODULES = (
    "pvpanic-mmio", "pvpanic-pci",
    "virtio_mmio", "virtio_pci",
    "virtio_blk", "virtio_net", "virtio_console", "virtio-rng", "virtio_balloon",
    "vmw_vsock_virtio_transport",
    "9pnet_virtio", "9p",
    "ext4", "crc32c_generic",
)  # fmt: skip

_PT_INTERP = 3


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a guest is made of.

    Attributes:
        release: the kernel's, as `uname -r` prints it in the guest.
        vmlinuz: the compressed kernel as shipped.
        modules: the wanted ones with their dependencies, in loading order.
        busybox: a statically linked busybox.
    """

    release: str
    vmlinuz: bytes
    modules: tuple[Module, ...]
    busybox: bytes


def from_packages(kernel_package: Path, busybox_package: Path) -> Ingredients:
    """Unpack what is needed from two .deb files.

    Raises:
        GuestAssetsError: a package is damaged or lacks what it is for.
    """
    vmlinuz: dict[str, bytes] = {}
    files: dict[str, bytes] = {}
    for member in deb.read_members(kernel_package, _is_kernel_file):
        path = member.path.removeprefix("usr/")
        if path.startswith("boot/vmlinuz-"):
            vmlinuz[path.removeprefix("boot/vmlinuz-")] = member.data
        else:
            files[path.removeprefix("lib/modules/")] = member.data
    if len(vmlinuz) != 1:
        raise GuestAssetsError(
            Cause.BAD_PACKAGE, f"{kernel_package.name} holds {len(vmlinuz)} kernels instead of one"
        )
    ((release, kernel),) = vmlinuz.items()
    modules = _needed({path.removeprefix(f"{release}/"): data for path, data in files.items()})
    return Ingredients(release, kernel, modules, _busybox_of(busybox_package))


def _is_kernel_file(path: str) -> bool:
    path = path.removeprefix("usr/")
    return path.startswith("boot/vmlinuz-") or (path.startswith("lib/modules/") and is_module(path))


def _needed(files: Mapping[str, bytes]) -> tuple[Module, ...]:
    """The wanted modules with what they need, out of all module files of a kernel."""
    return load_modules(WANTED_MODULES, files, files.__getitem__)


def load_modules(
    wanted: Iterable[str], paths: Iterable[str], read: Callable[[str], bytes]
) -> tuple[Module, ...]:
    """Read the modules `wanted` and what they need, and no others.

    Args:
        wanted: module names; those that `paths` lacks are built in or unknown, and skipped.
        paths: all module files, relative to the kernel's module folder.
        read: the contents of one of them.
    """
    path_of = {module_name(path): path for path in paths}
    found: dict[str, Module] = {}
    pending = [name.replace("-", "_") for name in wanted]
    while pending:
        name = pending.pop()
        if name in path_of and name not in found:
            found[name] = _parse(path_of[name], read(path_of[name]))
            pending.extend(found[name].depends)
    return tuple(closure(wanted, found))


def _parse(path: str, data: bytes) -> Module:
    try:
        return parse_module(path, data)
    except ModuleError as error:
        raise GuestAssetsError(
            Cause.BAD_PACKAGE, f"the kernel module {path} cannot be used: {error}"
        ) from error


def _busybox_of(package: Path) -> bytes:
    for member in deb.read_members(
        package, lambda path: path in {"bin/busybox", "usr/bin/busybox"}
    ):
        return member.data
    raise GuestAssetsError(Cause.BAD_PACKAGE, f"{package.name} holds no busybox")


def from_host() -> Ingredients:
    """Take the running kernel's files and the installed busybox of a host without apt.

    Raises:
        GuestAssetsError: there is no readable kernel, or no static busybox.
    """
    release = os.uname().release
    kernel = Path(f"/boot/vmlinuz-{release}")
    try:
        vmlinuz = kernel.read_bytes()
    except OSError as error:
        raise GuestAssetsError(
            Cause.NO_HOST_KERNEL,
            f"this machine's own kernel {kernel} cannot be used ({error.strerror})",
        ) from None
    folder = Path("/lib/modules", release)
    paths = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.ko*"))]
    modules = load_modules(
        WANTED_MODULES, filter(is_module, paths), lambda path: (folder / path).read_bytes()
    )
    return Ingredients(release, vmlinuz, modules, _host_busybox())


def _host_busybox() -> bytes:
    found = shutil.which("busybox")
    data = Path(found).read_bytes() if found else b""
    if not is_static(data):
        problem = "is not statically linked" if found else "is not installed"
        raise GuestAssetsError(
            Cause.NO_HOST_BUSYBOX,
            f"busybox, which the guest's programs come from, {problem}",
            "install a static busybox or pass --initramfs",
        )
    return data


def is_static(elf: bytes) -> bool:
    """Whether `elf` is a 64-bit program that needs no loader (no PT_INTERP, ELF spec §5)."""
    if elf[:5] != b"\x7fELF\x02":
        return False
    (headers_at,) = struct.unpack_from("<Q", elf, 0x20)
    entry_size, count = struct.unpack_from("<2H", elf, 0x36)
    types = (struct.unpack_from("<I", elf, headers_at + i * entry_size)[0] for i in range(count))
    return _PT_INTERP not in types
