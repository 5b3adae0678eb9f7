"""Reading a Debian package without dpkg: an ar archive around a compressed tar (deb(5)).

Nothing is ever written to disk here; a member's path is checked all the same, because it becomes
a path in the guest.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from vmm_reference.guest_assets.errors import Cause, GuestAssetsError
from vmm_reference.guest_assets.zstd import find_zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_SIZE = 60
_AR_END = b"`\n"
# What the standard library's tarfile unpacks by itself.
_TAR_MODES = {"": "r|", ".gz": "r|gz", ".xz": "r|xz", ".bz2": "r|bz2", ".lzma": "r|xz"}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a package: its path without a leading `./`, permissions and contents."""

    path: str
    permissions: int
    data: bytes


def _bad(package: Path, problem: str) -> GuestAssetsError:
    return GuestAssetsError(Cause.BAD_PACKAGE, f"{package.name} {problem}")


def _ar_members(package: Path, file: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Yield (name, size) with the file at the member's first byte."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise _bad(package, "is no Debian package (no ar archive)")
    while header := file.read(_AR_HEADER_SIZE):
        if len(header) != _AR_HEADER_SIZE or header[58:] != _AR_END:
            raise _bad(package, "is damaged (bad ar header)")
        try:
            size = int(header[48:58])
        except ValueError:
            raise _bad(package, "is damaged (bad ar size)") from None
        start = file.tell()
        if start + size > package.stat().st_size:
            raise _bad(package, "is cut short")
        yield header[:16].decode("ascii", "replace").rstrip(" /"), size
        file.seek(start + size + size % 2)


def safe_path(name: str) -> str | None:
    """The member path `name` relative to the root, or None when it would leave the root."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return None
    return str(path)


def read_members(package: Path, wanted: Callable[[str], bool]) -> list[Member]:
    """The regular files of `package` whose path `wanted` accepts, in archive order.

    Raises:
        GuestAssetsError: not a package, damaged, an unsafe path, or compressed in a way that
            neither this Python nor dpkg-deb unpacks.
    """
    try:
        with _data_tar(package) as archive:
            return list(_select(package, archive, wanted))
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _bad(package, f"is damaged ({error})") from error
    except Exception as error:
        # LZMAError, zlib.error and ZstdError share no base class but Exception
        if type(error).__module__ in {"_lzma", "zlib", "compression.zstd", "backports.zstd"}:
            raise _bad(package, f"is damaged ({error})") from error
        raise


def _select(
    package: Path, archive: tarfile.TarFile, wanted: Callable[[str], bool]
) -> Iterator[Member]:
    for info in archive:
        path = safe_path(info.name)
        if path is None:
            raise _bad(package, f"holds the unsafe path {info.name!r}")
        if info.isreg() and wanted(path):
            source = archive.extractfile(info)
            data = source.read() if source is not None else b""
            yield Member(path, info.mode & 0o7777, data)


@contextlib.contextmanager
def _data_tar(package: Path) -> Iterator[tarfile.TarFile]:
    with package.open("rb") as file:
        for name, size in _ar_members(package, file):
            if name.startswith("data.tar"):
                suffix = name.removeprefix("data.tar")
                with _open_tar(package, suffix, _Window(file, size)) as archive:
                    yield archive
                return
    raise _bad(package, "holds no data.tar")


@contextlib.contextmanager
def _open_tar(package: Path, suffix: str, window: _Window) -> Iterator[tarfile.TarFile]:
    mode: Any = _TAR_MODES.get(suffix)
    if mode is not None:
        with tarfile.open(fileobj=window, mode=mode) as archive:
            yield archive
    elif suffix == ".zst" and (zstd := find_zstd()) is not None:
        with zstd.ZstdFile(window) as source, tarfile.open(fileobj=source, mode="r|") as archive:
            yield archive
    elif shutil.which("dpkg-deb"):
        plain = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=False
        )
        if plain.returncode != 0:
            raise _bad(package, f"is damaged ({plain.stderr.decode(errors='replace').strip()})")
        with tarfile.open(fileobj=io.BytesIO(plain.stdout), mode="r:") as archive:
            yield archive
    else:
        raise GuestAssetsError(
            Cause.BAD_PACKAGE,
            f"{package.name} is compressed as {suffix[1:]}, which this Python cannot unpack",
            "pip install backports.zstd, or pass --kernel and --initramfs",
        )


class _Window(io.RawIOBase):
    """The next `size` bytes of an open file, as a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__()
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        data = self._file.read(size)
        self._left -= len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
