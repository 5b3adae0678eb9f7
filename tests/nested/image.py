"""The archives that turn the default guest into a machine for testing KVM.

The default guest's initramfs stays as it is and brings busybox, an init and the exec protocol. A
second archive behind it adds the kernel's KVM modules, this host's Python with our packages, the
checkout's tests, and the default guest once more as the guest's guest.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from python_tree import next_of

from vmm_reference.guest_assets import GuestImage, cpio, deb, guest, kernel
from vmm_reference.guest_assets.cache import Cache, default_root
from vmm_reference.guest_assets.modules import Module, is_module

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

MODULES = "lib/nested"
CACHE = "root/.cache/py-vmm"
_ARCHIVE_ALIGNMENT = 4


class ImageError(Exception):
    """The machine cannot be made; the message is one sentence."""


def kernel_modules(release: str) -> list[Module]:
    """KVM for AMD-V and TAP interfaces, in loading order, for the kernel `release`.

    They come from the kernel's package in the cache of the default guest, or from the host if it
    runs that kernel.

    Raises:
        ImageError: they are in neither place.
    """
    files = _packaged_modules(release) or _installed_modules(release)
    modules = kernel.load_modules(("kvm-amd", "tun"), files, files.__getitem__)
    if not modules:
        raise ImageError(f"there is no module kvm-amd or tun for Linux {release} here")
    return list(modules)


def _packaged_modules(release: str) -> dict[str, bytes]:
    for package in sorted((default_root() / "packages").glob(f"linux-image-{release}_*.deb")):
        members = deb.read_members(package, lambda path: is_module(path) and "/kernel/" in path)
        marker = f"lib/modules/{release}/"
        return {member.path.partition(marker)[2]: member.data for member in members}
    return {}


def _installed_modules(release: str) -> dict[str, bytes]:
    folder = Path("/lib/modules", release)
    paths = (path for path in folder.rglob("*.ko*") if is_module(str(path)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def module_entries(modules: Iterable[Module]) -> Iterator[cpio.Entry]:
    """The modules as files whose names sort in loading order."""
    for number, module in enumerate(modules):
        yield cpio.regular_file(f"{MODULES}/{number:02}-{module.name}.ko", module.data)


def cache_entries(image: GuestImage) -> Iterator[cpio.Entry]:
    """A cache of the user root that holds `image`, without the unpacked kernel: KVM needs none."""
    with tempfile.TemporaryDirectory() as folder:
        store = Cache(Path(folder))
        files = {}
        for role, source in (("kernel", image.kernel), ("initramfs", image.initramfs)):
            store.write(source.name, source.read_bytes())
            os.utime(store.root / source.name, ns=(0, 0))  # an archive has whole seconds only
            files[role] = store.stamp(source.name)
        store.save(guest._manifest(), {"version": image.version}, files)
        for path in sorted(store.root.iterdir()):
            yield cpio.regular_file(f"{CACHE}/{path.name}", path.read_bytes())


def host_entries(paths: Collection[Path]) -> Iterator[cpio.Entry]:
    """Files of this host under the same absolute paths; links stay links if their target comes."""
    for path in sorted(paths):
        name = str(path.relative_to("/"))
        if path.is_symlink() and next_of(path) in paths:
            yield cpio.symlink(name, str(path.readlink()))
            continue
        status = path.stat()
        permissions = stat.S_IMODE(status.st_mode)
        # Compiled modules count as current only with the time of their sources.
        yield cpio.Entry(
            name, stat.S_IFREG | permissions, path.read_bytes(), mtime=int(status.st_mtime)
        )


def with_folders(entries: Iterable[cpio.Entry], existing: Iterable[str]) -> list[cpio.Entry]:
    """`entries` with the folders that they need in front, except those that are there already."""
    files = list(entries)
    folders = {str(parent) for file in files for parent in PurePosixPath(file.name).parents}
    missing = folders - set(existing) - {"."}
    return [*map(cpio.directory, sorted(missing)), *files]


def join(*archives: bytes) -> bytes:
    """One initramfs of several archives; the kernel unpacks them in turn."""
    return b"".join(archive + bytes(-len(archive) % _ARCHIVE_ALIGNMENT) for archive in archives)


def build(
    image: GuestImage,
    modules: Iterable[Module],
    paths: Collection[Path],
    texts: Mapping[str, bytes],
) -> bytes:
    """The initramfs of the outer machine.

    Args:
        image: the default guest with the command to run in it.
        modules: kernel modules in loading order.
        paths: files of this host to bring along.
        texts: further files by their names.
    """
    base = image.initramfs.read_bytes()
    entries = [*module_entries(modules), *cache_entries(image), *host_entries(paths)]
    entries += [cpio.regular_file(name, data) for name, data in texts.items()]
    existing = (entry.name for entry in cpio.read_archive(base))
    return join(base, cpio.write_archive(with_folders(entries, existing)), image.overlay)
