"""Kernel modules: what a .ko says about itself, which others it needs, modprobe's index files.

Dependencies come from the modules' own `.modinfo` section (`depends=`, `alias=`, as modpost
writes it) and not from `modules.dep`: a Debian kernel package ships without one, since depmod
makes it on installation.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from vmm_reference.guest_assets.zstd import find_zstd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ELF_MAGIC = b"\x7fELF"
_ELF64_LITTLE = b"\x02\x01"


class ModuleError(ValueError):
    """Bytes that are no kernel module, or compressed in a way that cannot be undone here."""


@dataclass(frozen=True, slots=True)
class Module:
    """A loadable kernel module.

    Attributes:
        name: as the kernel lists it, with underscores.
        path: below `lib/modules/RELEASE/`, ending in `.ko`.
        data: the uncompressed ELF file with its signature.
        depends: names of the modules that must be loaded before.
        aliases: patterns of the device identifiers that it drives.
    """

    name: str
    path: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def module_name(path: str) -> str:
    """The kernel's name for the module file `path`: no suffixes, underscores for dashes."""
    return PurePosixPath(path).name.split(".ko", 1)[0].replace("-", "_")


def is_module(path: str) -> bool:
    """Whether `path` names a kernel module, compressed or not."""
    return ".ko" in PurePosixPath(path).suffixes


def parse_module(path: str, data: bytes) -> Module:
    """Read the module file `path` (relative to its release's folder) with the contents `data`.

    Raises:
        ModuleError: no module, or an unknown compression.
    """
    stem, compression = path.rsplit(".ko", 1)
    data = decompress(data, compression)
    info = _modinfo(data)
    depends = tuple(
        name.replace("-", "_")
        for value in info.get("depends", [])
        for name in value.split(",")
        if name
    )
    return Module(module_name(path), f"{stem}.ko", data, depends, tuple(info.get("alias", ())))


def decompress(data: bytes, suffix: str) -> bytes:
    """Undo the compression that the file name's `suffix` ("", ".xz", ".gz", …) stands for."""
    try:
        match suffix:
            case "":
                return data
            case ".xz" | ".lzma":
                return lzma.decompress(data)
            case ".gz":
                return gzip.decompress(data)
            case ".bz2":
                return bz2.decompress(data)
            case ".zst":
                return _zstd(data)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ModuleError(f"damaged {suffix} data ({error})") from error
    raise ModuleError(f"no way to unpack {suffix}")


def _zstd(data: bytes) -> bytes:
    zstd = find_zstd()
    if zstd is None:
        raise ModuleError("no way to unpack .zst without the module backports.zstd")
    try:
        plain: bytes = zstd.decompress(data)
    except zstd.ZstdError as error:
        raise ModuleError(f"damaged .zst data ({error})") from error
    return plain


def _modinfo(elf: bytes) -> dict[str, list[str]]:
    """The `key=value` strings of the section .modinfo (ELF-64 little endian, ELF spec §4)."""
    if elf[:4] != _ELF_MAGIC or elf[4:6] != _ELF64_LITTLE:
        raise ModuleError("no 64-bit little-endian ELF file")
    try:
        section_at = struct.unpack_from("<Q", elf, 0x28)[0]
        entry_size, count, names_index = struct.unpack_from("<3H", elf, 0x3A)
        headers = [
            struct.unpack_from("<2I4Q", elf, section_at + index * entry_size)
            for index in range(count)
        ]
        names_at = headers[names_index][4]
    except (struct.error, IndexError, OverflowError):
        raise ModuleError("damaged ELF section table") from None
    for name, _, _, _, offset, size in headers:
        start = names_at + name
        if elf[start : elf.find(b"\0", start)] == b".modinfo":
            return _strings(elf[offset : offset + size])
    raise ModuleError("an ELF file without .modinfo is no kernel module")


def _strings(section: bytes) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for item in section.split(b"\0"):
        key, equals, value = item.decode("utf-8", "replace").partition("=")
        if equals:
            result.setdefault(key, []).append(value)
    return result


def closure(wanted: Iterable[str], available: Mapping[str, Module]) -> list[Module]:
    """The modules `wanted` and all that they need, each after what it depends on.

    A name that is not `available` is left out: the kernel has it built in, or not at all. The
    order depends on that of `wanted` alone.
    """
    order: dict[str, Module] = {}
    pending = [name.replace("-", "_") for name in reversed(list(wanted))]
    opened: set[str] = set()
    while pending:
        name = pending.pop()
        if name in order or name not in available:
            continue
        module = available[name]
        again = name in opened
        opened.add(name)  # before its needs are looked at: it may be one of them
        missing = [need for need in module.depends if need not in order and need not in opened]
        if missing and not again:
            pending.append(name)
            pending.extend(reversed(missing))
        else:
            order[name] = module
    return list(order.values())


def modules_dep(modules: Iterable[Module]) -> str:
    """The text of `modules.dep` (modules.dep(5)): each file and, nearest first, what it needs."""
    available = {module.name: module for module in modules}
    lines = []
    for module in available.values():
        needs = [need.path for need in closure([module.name], available) if need is not module]
        lines.append(f"{module.path}:{''.join(f' {path}' for path in reversed(needs))}\n")
    return "".join(lines)


def modules_alias(modules: Iterable[Module]) -> str:
    """The text of `modules.alias`: which device identifiers name which module."""
    return "".join(
        f"alias {alias} {module.name}\n" for module in modules for alias in module.aliases
    )
