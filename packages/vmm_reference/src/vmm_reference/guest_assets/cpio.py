"""The archive format of an initramfs: cpio "newc", written and read.

Knows the format and nothing of what is in an initramfs. The kernel's side of the contract is
Documentation/driver-api/early-userspace/buffer-format.rst: a sequence of archives, each entry a
110-byte header of ASCII hexadecimal fields, a NUL-terminated name and the data, both padded to
four bytes, and an entry named `TRAILER!!!` at the end.

Output depends on the entries alone: modification times are zero and inode numbers count up, so
the same input gives the same bytes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
_FIELDS = 13
_HEADER_SIZE = len(MAGIC) + 8 * _FIELDS
_FIELD_MAX = 0xFFFF_FFFF


class CpioError(ValueError):
    """Bytes that are no newc archive, or an entry that the format cannot hold."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive.

    Attributes:
        name: path relative to the root, without a leading slash.
        mode: type and permission bits, as in `stat.st_mode`.
        data: contents; the target for a symbolic link; empty for other types.
        device: (major, minor) of a device node.
        mtime: seconds since the epoch.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    uid: int = 0
    gid: int = 0
    mtime: int = 0


def directory(name: str, permissions: int = 0o755) -> Entry:
    """A directory; entries below it must come after it."""
    return Entry(name, stat.S_IFDIR | permissions)


def regular_file(name: str, data: bytes, permissions: int = 0o644) -> Entry:
    """An ordinary file."""
    return Entry(name, stat.S_IFREG | permissions, data)


def symlink(name: str, target: str) -> Entry:
    """A symbolic link to `target`."""
    return Entry(name, stat.S_IFLNK | 0o777, _encode(target))


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(name, stat.S_IFCHR | permissions, device=(major, minor))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return b"\0" * (-size % 4)


def _pack(entry: Entry, inode: int) -> bytes:
    name = _encode(entry.name) + b"\0"
    if b"\0" in name[:-1] or entry.name == "":
        raise CpioError(f"{entry.name!r} is no file name")
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (
        inode, entry.mode, entry.uid, entry.gid, links, entry.mtime, len(entry.data),
        0, 0, major, minor, len(name), 0,
    )  # fmt: skip
    if not all(0 <= field <= _FIELD_MAX for field in fields):
        raise CpioError(f"{entry.name}: a field does not fit in 32 bits")
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    head = header + name
    return b"".join((head, _padding(len(head)), entry.data, _padding(len(entry.data))))


def write_archive(entries: Iterable[Entry]) -> bytes:
    """The archive that holds `entries` in their order; its length is a multiple of four.

    Archives may be concatenated: the kernel unpacks one after the other, and a later file
    replaces an earlier one of the same name.

    Raises:
        CpioError: an entry that newc cannot express.
    """
    parts = [_pack(entry, inode) for inode, entry in enumerate(entries, start=1)]
    parts.append(_pack(Entry(TRAILER, 0), 0))
    return b"".join(parts)


def read_archive(data: bytes) -> list[Entry]:
    """The entries of one archive, or of several behind one another.

    Raises:
        CpioError: not newc, or it ends in the middle.
    """
    return list(_entries(data))


def _entries(data: bytes) -> Iterator[Entry]:
    offset = 0
    ended = False
    while offset < len(data):
        if ended and data[offset] == 0:  # padding between archives
            offset += 1
            continue
        entry, offset = _unpack(data, offset)
        ended = entry.name == TRAILER
        if not ended:
            yield entry
    if not ended:
        raise CpioError(f"the archive ends at byte {offset} without {TRAILER}")


def _unpack(data: bytes, offset: int) -> tuple[Entry, int]:
    header = data[offset : offset + _HEADER_SIZE]
    if header[: len(MAGIC)] != MAGIC:
        raise CpioError(f"no newc header at byte {offset}")
    try:
        fields = [int(header[at : at + 8], 16) for at in range(len(MAGIC), _HEADER_SIZE, 8)]
    except ValueError:
        raise CpioError(f"damaged newc header at byte {offset}") from None
    _, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, _ = fields
    name_at = offset + _HEADER_SIZE
    name = data[name_at : name_at + name_size]
    data_at = name_at + name_size + len(_padding(_HEADER_SIZE + name_size))
    contents = data[data_at : data_at + size]
    if len(name) != name_size or len(contents) != size or name[-1:] != b"\0":
        raise CpioError(f"the entry at byte {offset} is cut short")
    entry = Entry(
        name[:-1].decode("utf-8", "surrogateescape"),
        mode,
        contents,
        (major, minor),
        uid,
        gid,
        mtime,
    )
    return entry, data_at + size + len(_padding(size))
