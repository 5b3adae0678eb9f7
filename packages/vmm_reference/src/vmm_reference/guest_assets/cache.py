"""A folder of files that are whole or absent, shared by every run of this user.

Files appear by renaming, so a reader sees none that is half written; a lock keeps two first runs
from doing the same work. A manifest names the files that belong together with their checksums.
Opening it costs one `stat` per file: size and modification time stand for the contents, and a
file whose stamp has changed (damaged, or the cache was copied) is read and its checksum compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmm_reference.guest_assets.errors import Cause, GuestAssetsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

_UNFINISHED = ".new-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def default_root() -> Path:
    """`$XDG_CACHE_HOME/py-vmm`, or `~/.cache/py-vmm` (XDG Base Directory specification)."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"  # noqa: PTH117
    except RuntimeError:
        raise GuestAssetsError(
            Cause.CACHE_UNUSABLE, "this user has no home folder for a cache", "set XDG_CACHE_HOME"
        ) from None
    return base / "py-vmm"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file of the cache must look like.

    Attributes:
        path: relative to the cache.
        sha256: of its contents, in hexadecimal.
        size: bytes.
        mtime: modification time in ns when the checksum was last compared.
    """

    path: str
    sha256: str
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Files that belong together, by their roles, and facts about them."""

    facts: Mapping[str, str]
    files: Mapping[str, Stamp]


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache below `root`, which need not exist yet."""

    root: Path

    @contextlib.contextmanager
    def lock(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the cache's lock; calls `waiting` once when someone else has it.

        The lock goes with the process: one that dies leaves nothing behind.
        """
        with self.errors():
            self.root.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn failures of the file system into `GuestAssetsError`."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise disk_full(self.root) from error
            raise GuestAssetsError(
                Cause.CACHE_UNUSABLE,
                f"the guest cache {self.root} cannot be used ({error.strerror or error})",
                "set XDG_CACHE_HOME to a folder that you can write",
            ) from error

    def write(self, path: str, data: bytes) -> Stamp:
        """Put `data` at `path` (relative), replacing what was there in one step."""
        with self.errors():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{_UNFINISHED}{os.getpid()}-{target.name}")
            try:
                temporary.write_bytes(data)
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            return self.stamp(path)

    def stamp(self, path: str) -> Stamp:
        """The stamp of the file at `path` as it is now; reads all of it."""
        import hashlib  # noqa: PLC0415  # takes OpenSSL along; most runs compare no checksum

        with self.errors(), (self.root / path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            status = os.fstat(file.fileno())
        return Stamp(path, digest, status.st_size, status.st_mtime_ns)

    def is_intact(self, stamp: Stamp, *, thorough: bool = False) -> bool:
        """Whether the file is as `stamp` says; `thorough` reads it even if it looks untouched."""
        try:
            status = (self.root / stamp.path).stat()
        except OSError:
            return False
        if status.st_size != stamp.size:
            return False
        if status.st_mtime_ns == stamp.mtime and not thorough:
            return True
        return self.stamp(stamp.path).sha256 == stamp.sha256

    def sweep(self, folder: str, keep: Collection[str]) -> None:
        """Remove the files below `folder` that are not in `keep`, and folders left empty.

        To be called with the lock held: it takes what others have not finished, too.

        Args:
            folder: relative to the cache, as are the paths in `keep`.
            keep: files that stay.
        """
        kept = {self.root / path for path in keep}
        with contextlib.suppress(OSError):
            for path in sorted((self.root / folder).rglob("*"), reverse=True):
                if path.is_dir():
                    with contextlib.suppress(OSError):  # not empty
                        path.rmdir()
                elif path not in kept:
                    path.unlink()

    def save(self, name: str, facts: Mapping[str, str], files: Mapping[str, Stamp]) -> None:
        """Write the manifest `name`: which files belong together, and what is known of them.

        One line each, fields separated by tabs: a fact's name and text, a file's name and stamp.
        """
        rows: list[tuple[str, ...]] = [("fact", *fact) for fact in facts.items()]
        for key, stamp in files.items():
            rows.append(("file", key, stamp.sha256, str(stamp.size), str(stamp.mtime), stamp.path))
        self.write(name, "".join("\t".join(row) + "\n" for row in rows).encode())

    def load(self, name: str, *, thorough: bool = False) -> Manifest | None:
        """The manifest `name`; None unless it and all its files are there and intact."""
        facts: dict[str, str] = {}
        files: dict[str, Stamp] = {}
        try:
            for line in (self.root / name).read_text().splitlines():
                match line.split("\t"):
                    case "fact", key, text:
                        facts[key] = text
                    case "file", key, digest, size, mtime, path:
                        files[key] = Stamp(path, digest, int(size), int(mtime))
                    case _:
                        return None
        except (OSError, ValueError):
            return None
        if not all(self.is_intact(stamp, thorough=thorough) for stamp in files.values()):
            return None
        self._restamp(name, facts, files)
        return Manifest(facts, files)

    def _restamp(self, name: str, facts: Mapping[str, str], files: dict[str, Stamp]) -> None:
        """Note the times of intact files in a copied cache, so that it is read only once."""
        times = {key: (self.root / files[key].path).stat().st_mtime_ns for key in files}
        if any(times[key] != files[key].mtime for key in files):
            files.update({key: replace(files[key], mtime=times[key]) for key in files})
            with contextlib.suppress(GuestAssetsError):  # a cache may be read-only
                self.save(name, facts, files)


def disk_full(where: Path) -> GuestAssetsError:
    """The error for a cache that has no room; the guest needs about 200 MB in all."""
    return GuestAssetsError(
        Cause.DISK_FULL,
        f"the disk with the guest cache {where} is full",
        "free 200 MB, set XDG_CACHE_HOME elsewhere, or pass --kernel and --initramfs",
    )
