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
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmm_reference.guest_assets.errors import Cause, GuestAssetsError

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
            fd, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    os.fchmod(fd, 0o644)
                os.replace(temporary, target)  # noqa: PTH105
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)  # noqa: PTH108
                raise
            return self.stamp(path)

    def stamp(self, path: str) -> Stamp:
        """The stamp of the file at `path` as it is now; reads all of it."""
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

    def save(self, name: str, facts: Mapping[str, str], files: Mapping[str, Stamp]) -> None:
        """Write the manifest `name`: which files belong together, and what is known of them."""
        record = {"facts": dict(facts), "files": {key: asdict(files[key]) for key in files}}
        self.write(name, json.dumps(record, indent=1).encode())

    def load(
        self, name: str, *, thorough: bool = False
    ) -> tuple[dict[str, str], dict[str, Stamp]] | None:
        """The facts and files of the manifest `name`; None unless all of it is there and intact."""
        try:
            record: Any = json.loads((self.root / name).read_bytes())
            facts = {str(key): str(value) for key, value in record["facts"].items()}
            files = {str(key): Stamp(**value) for key, value in record["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if all(self.is_intact(stamp, thorough=thorough) for stamp in files.values()):
            return facts, files
        return None


def disk_full(where: Path) -> GuestAssetsError:
    """The error for a cache that has no room; the guest needs about 200 MB in all."""
    return GuestAssetsError(
        Cause.DISK_FULL,
        f"the disk with the guest cache {where} is full",
        "free 200 MB, set XDG_CACHE_HOME elsewhere, or pass --kernel and --initramfs",
    )
