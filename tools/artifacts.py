"""Wheels of our own packages, built once per state of their sources.

Every session installs these wheels, so what is tested is what would be released. A package is
built from a fresh copy of its sources into `.py-vmm/<key>/dist/NAME-<hash>/`: the sdist first, then
the wheel from the sdist. A stale `build/` folder, a left-over `.so` or a file missing from the
sdist can therefore not go unnoticed, and a changed line of C or of a kernel header leads to a new
build.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools import environment, host

PACKAGES = (
    "kvm_ioctls",
    "vm_memory",
    "vm_allocator",
    "linux_loader",
    "virtio_devices",
    "soft_kvm",
    "vmm_reference",
)
_KERNEL_HEADER = Path("/usr/include/linux/kvm.h")
_NOT_SOURCE_FOLDERS = {"__pycache__", "build", "dist", "tests", ".hypothesis", ".pytest_cache"}
_NOT_SOURCE_SUFFIXES = {".so", ".o", ".pyc", ".egg-info"}
_GENERATED = {"_ffi.c", "_core.c"}


@dataclass(frozen=True)
class Artifact:
    """One built package: its import name, the hash of its sources, and the two files."""

    name: str
    source_hash: str
    wheel: Path
    sdist: Path


def build(names: tuple[str, ...] = PACKAGES) -> list[Artifact]:
    """Build what is not built yet and return one artifact per name, in the given order.

    Raises:
        HostError: the compiler or a header is missing, or a build failed (its output is printed).
    """
    found = {name: _existing(name, source_hash(name)) for name in names}
    missing = [name for name, artifact in found.items() if artifact is None]
    if missing:
        host.require(host.compiler_lacks())
        python = environment.tool_python()
        with environment.lock():
            host.say(f"building {', '.join(missing)}")
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                found.update(
                    zip(missing, pool.map(lambda n: _build(python, n), missing), strict=True)
                )
    return [artifact for artifact in found.values() if artifact is not None]


def source_hash(name: str) -> str:
    """A hash over everything that decides what the wheel of `name` contains."""
    folder = environment.ROOT / "packages" / name
    digest = hashlib.sha256(environment.key().encode())
    if _KERNEL_HEADER.exists():
        digest.update(_KERNEL_HEADER.read_bytes())
    for path in _sources(folder):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _sources(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise host.HostError(f"there is no package in {folder}")
    return sorted(path for path in folder.rglob("*") if path.is_file() and _is_source(path, folder))


def _is_source(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    if any(part in _NOT_SOURCE_FOLDERS or Path(part).suffix == ".egg-info" for part in parts[:-1]):
        return False
    return path.suffix not in _NOT_SOURCE_SUFFIXES and path.name not in _GENERATED


def _dist() -> Path:
    return environment.base() / "dist"


def _existing(name: str, digest: str) -> Artifact | None:
    folder = _dist() / f"{name}-{digest}"
    wheels, sdists = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return None
    return Artifact(name, digest, wheels[0], sdists[0])


def _build(python: Path, name: str) -> Artifact:
    """Build one package from a copy of its sources; the result appears all at once."""
    digest = source_hash(name)
    existing = _existing(name, digest)
    if existing is not None:  # another process built it while we waited for the lock
        return existing
    package = environment.ROOT / "packages" / name
    _dist().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_dist()) as scratch:
        copy, out = Path(scratch, name), Path(scratch, "out")
        for path in _sources(package):
            target = copy / path.relative_to(package)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        _run_build(python, copy, out)
        for old in _dist().glob(f"{name}-*"):
            shutil.rmtree(old)
        out.rename(_dist() / f"{name}-{digest}")
    built = _existing(name, digest)
    if built is None:
        raise host.HostError(f"the build of {name} left no wheel and sdist")
    return built


def _run_build(python: Path, source: Path, out: Path) -> None:
    command = [str(python), "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise host.HostError(f"building {source.name} failed; the compiler's output is above")
