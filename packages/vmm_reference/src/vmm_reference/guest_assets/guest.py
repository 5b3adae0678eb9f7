"""From nothing to a guest that boots: look in the cache, else fetch, unpack and build.

Being on the way of every boot, the case "it is all there" touches three files and imports
nothing that only the first run needs.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmm_reference.guest_assets.cache import Cache, Manifest, Stamp, default_root
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError
from vmm_reference.guest_assets.overlay import exec_overlay

if TYPE_CHECKING:
    from vmm_reference.guest_assets.apt import Apt, Package
    from vmm_reference.guest_assets.kernel import Ingredients

Log = Callable[[str], None]

KERNEL_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"

# What an initramfs is made by; a change of one of these files makes another one.
_RECIPE = ("cpio", "init_script", "initramfs", "kernel", "modules", "raw_ports")

# Modules that linux_loader unpacks a kernel with, by its names for them.
_DECOMPRESSORS = {"lz4": "lz4", "zstd": "backports.zstd"}

# How many builds by other versions of these files stay in the cache (3 MB each).
_OTHER_BUILDS = 3

KERNEL_WORDS = "cryptomgr.notests"
"""What this kernel need not do on any command line.

The self-tests of its ciphers take 0.7 of 3.5 s under emulation (initcall_debug: crypto_algapi_init
657 ms) and are the distribution's to pass, not ours.
"""

# `panic=-1`: where no pvpanic device ends the VM, a panic reboots at once.
CMDLINE = f"console=ttyS0 panic=-1 {KERNEL_WORDS}"
EXEC_CMDLINE = f"{CMDLINE} quiet"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A guest on disk, ready to boot.

    Attributes:
        kernel: the distribution's vmlinuz, a bzImage, as shipped.
        vmlinux: the same kernel unpacked to an ELF file, or None when that was not possible.
        initramfs: an uncompressed newc archive.
        cmdline: the kernel command line that suits it.
        version: kernel release and package versions, for people.
        overlay: bytes to append to the initramfs in memory; empty without an exec command.
    """

    kernel: Path
    vmlinux: Path | None
    initramfs: Path
    cmdline: str
    version: str
    overlay: bytes = b""


def default_guest(
    *,
    cache: Path | None = None,
    exec_command: str | None = None,
    log: Log = lambda _: None,
    refetch: bool = False,
    verify: bool = False,
) -> GuestImage:
    """The guest that `vmm-reference` boots when it is given no kernel.

    The first call fetches it (about 28 MB) and takes some seconds; later ones use neither the
    network nor more than a few milliseconds, and stay with the same version.

    Args:
        cache: folder to keep it in; the user's cache when None.
        exec_command: run this in the guest and power off, instead of an interactive shell.
        log: receives one sentence per step that takes time.
        refetch: ask apt for the newest version even if a guest is there.
        verify: compare every checksum instead of sizes and times.

    Raises:
        GuestAssetsError: there is none and none can be made; its sentence says why.
    """
    overlay = b"" if exec_command is None else exec_overlay(exec_command)
    store = Cache(cache if cache is not None else default_root())
    image = None if refetch else _cached(store, verify=verify)
    if image is None:
        with store.lock(lambda: log("another process is preparing the guest; waiting for it")):
            # Whoever had the lock before may have done the work.
            image = None if refetch else _cached(store, verify=verify)
            if image is None:
                _prepare(store, log, refetch=refetch)
                image = _cached(store)
    if image is None:
        raise GuestAssetsError(
            Cause.CACHE_UNUSABLE, f"files in {store.root} change while they are being used"
        )
    if exec_command is not None:
        image = replace(image, cmdline=EXEC_CMDLINE, overlay=overlay)
    return image


def _recipe() -> str:
    """A short name for this way of building an initramfs; another way is another cache entry."""
    checksum = 0
    for module in _RECIPE:
        with contextlib.suppress(OSError):  # installed without sources
            checksum = zlib.crc32(Path(__file__).with_name(f"{module}.py").read_bytes(), checksum)
    return f"{checksum:08x}"


def _manifest() -> str:
    return f"guest-{_recipe()}.manifest"


_PACKAGES = "packages.manifest"


def _cached(store: Cache, *, verify: bool = False) -> GuestImage | None:
    found = store.load(_manifest(), thorough=verify)
    if found is None:
        return None
    files = found.files
    missing = found.facts.get("missing")
    if missing and _is_installed(missing):
        return None  # the kernel can be unpacked now
    try:
        vmlinux = files.get("vmlinux")
        return GuestImage(
            kernel=store.root / files["kernel"].path,
            vmlinux=store.root / vmlinux.path if vmlinux else None,
            initramfs=store.root / files["initramfs"].path,
            cmdline=CMDLINE,
            version=found.facts["version"],
        )
    except KeyError:
        return None


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec  # noqa: PLC0415  # almost never needed

    try:
        return find_spec(module) is not None
    except ImportError:  # its package is not there
        return False


def _prepare(store: Cache, log: Log, *, refetch: bool) -> None:
    """Fill the cache: from packages in it, else through apt, else from this host."""
    packages = None if refetch else store.load(_PACKAGES, thorough=True)
    if packages is None:
        try:
            packages = _fetch(store, log)
        except GuestAssetsError as error:
            if error.cause not in {Cause.NO_APT, Cause.UNKNOWN_PACKAGE}:
                raise
            _build_from_host(store, log, error)
            return
    from vmm_reference.guest_assets import kernel  # noqa: PLC0415

    facts, files = packages.facts, packages.files
    log("unpacking the guest's packages")
    with store.errors():
        parts = kernel.from_packages(
            store.root / files["kernel"].path, store.root / files["busybox"].path
        )
    version = f"{parts.release} (Debian {facts['kernel']}, busybox {facts['busybox']})"
    _build(store, log, parts, f"{facts['kernel']}_{facts['busybox']}", version)


def _build_from_host(store: Cache, log: Log, reason: GuestAssetsError) -> None:
    from vmm_reference.guest_assets import kernel  # noqa: PLC0415

    log(f"{reason.problem}: using this machine's own kernel")
    try:
        parts = kernel.from_host()
    except GuestAssetsError as error:
        if error.cause is Cause.NO_HOST_BUSYBOX:
            raise
        raise GuestAssetsError(error.cause, f"{reason.problem} and {error.problem}") from reason
    _build(store, log, parts, "host", f"{parts.release} (this host's)")


def _build(store: Cache, log: Log, parts: Ingredients, key: str, version: str) -> None:
    """Write the guest's files and, last, the manifest that makes them count."""
    from vmm_reference.guest_assets import initramfs  # noqa: PLC0415

    folder = f"guests/{parts.release}_{key}".replace(":", "_")
    files = {"kernel": store.write(f"{folder}/vmlinuz", parts.vmlinuz)}
    vmlinux, missing = _unpacked(store, log, files["kernel"], f"{folder}/vmlinux")
    if vmlinux is not None:
        files["vmlinux"] = vmlinux
    files["initramfs"] = store.write(
        f"{folder}/initramfs-{_recipe()}.cpio",
        initramfs.build(parts.busybox, parts.release, parts.modules),
    )
    store.save(_manifest(), {"version": version, "missing": missing}, files)
    _sweep(store)
    log(f"the guest is ready: Linux {version}")


def _sweep(store: Cache) -> None:
    """Remove old builds, and kernels and packages that no build needs any more."""
    builds = sorted(store.root.glob("guest-*.manifest"), key=lambda path: -path.stat().st_mtime_ns)
    for path in builds[1 + _OTHER_BUILDS :]:
        path.unlink()
    manifests = (store.load(path.name) for path in store.root.glob("*.manifest"))
    keep = [stamp.path for found in manifests if found for stamp in found.files.values()]
    for folder in ("guests", "packages"):
        store.sweep(folder, keep)


def _unpacked(store: Cache, log: Log, kernel: Stamp, path: str) -> tuple[Stamp | None, str]:
    """Unpack the kernel to a vmlinux: it saves boot time, and nothing depends on it.

    Returns:
        Its stamp, or None and the name of the module that would help, if one would.
    """
    from linux_loader import LoaderError, MissingDecompressor, extract_vmlinux  # noqa: PLC0415

    try:
        vmlinux = extract_vmlinux(store.root / kernel.path)
    except LoaderError as error:
        log(f"the kernel stays compressed, so it boots slower under emulation: {error}")
        extra = error.extra if isinstance(error, MissingDecompressor) else None
        return None, _DECOMPRESSORS.get(extra or "", "")
    return store.write(path, vmlinux), ""


def _fetch(store: Cache, log: Log) -> Manifest:
    """Download the packages with the system's lists or, failing that, with our own."""
    from vmm_reference.guest_assets import apt  # noqa: PLC0415

    with store.errors():
        folder = store.root / "apt"
        try:
            return _fetch_with(store, apt.system_lists(folder), log)
        except GuestAssetsError as error:
            # Unknown to empty lists, or gone from the servers since the lists were made. Without
            # a network the second attempt fails as fast as the first, and says so.
            if error.cause not in {Cause.UNKNOWN_PACKAGE, Cause.APT_FAILED}:
                raise
        lists = apt.private_lists(folder)
        log("updating private package lists")
        lists.update()
        return _fetch_with(store, lists, log)


def _fetch_with(store: Cache, lists: Apt, log: Log) -> Manifest:
    meta, busybox = lists.show(KERNEL_PACKAGE, BUSYBOX_PACKAGE)
    image = _versioned_kernel(lists, meta)
    log(f"fetching {image.name} and {busybox.name} ({(image.size + busybox.size) / 1e6:.0f} MB)")
    kernel_file, busybox_file = lists.download([image, busybox], store.root / "packages")
    files = {
        "kernel": store.stamp(str(kernel_file.relative_to(store.root))),
        "busybox": store.stamp(str(busybox_file.relative_to(store.root))),
    }
    facts = {"kernel": image.version, "busybox": busybox.version}
    store.save(_PACKAGES, facts, files)
    return Manifest(facts, files)


def _versioned_kernel(lists: Apt, meta: Package) -> Package:
    """The package with the kernel itself: the metapackage depends on exactly one such."""
    for name in meta.depends:
        if name.startswith("linux-image-"):
            return lists.show(name)[0]
    raise GuestAssetsError(Cause.UNKNOWN_PACKAGE, f"{meta.name} depends on no kernel image")
