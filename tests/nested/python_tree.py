"""Which files of this host make up the Python that runs this program.

The interpreter, its standard library, the environment it runs in (whatever pip has installed
there) and the shared libraries of all that. They are to appear elsewhere under the same absolute
paths, so that the environment's configuration, scripts and run paths stay true.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

# Parts of the standard library and of environments that no test of KVM imports.
_LEFT_OUT = (
    "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data",
    "site-packages", "dist-packages", "pip", "setuptools", "wheel", "pkg_resources", "unicorn",
)  # fmt: skip
_LEFT_OUT_SUFFIXES = frozenset({".a", ".exe", ".h", ".pyi"})


def files() -> set[Path]:
    """Absolute paths of ordinary files and symbolic links; folders follow from them."""
    found = {*_interpreter(), *_libraries(), *_environment()}
    return found | shared_libraries(path for path in found if _is_elf(path))


def _interpreter() -> Iterator[Path]:
    """The program under all its names, and every link between one and the file."""
    pending = list(Path(sys.executable).parent.glob("python*"))
    while pending:
        path = pending.pop()
        yield path
        if path.is_symlink():
            pending.append(next_of(path))


def next_of(link: Path) -> Path:
    """The path that a symbolic link names, which may be a link again."""
    return Path(os.path.normpath(link.parent / link.readlink()))


def _libraries() -> Iterator[Path]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    # In an environment, "stdlib" may name a folder that does not exist there.
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    folders = {Path(sysconfig.get_path(name)) for name in names}
    folders |= {Path(sysconfig.get_path(name, vars=base)) for name in names[:2]}
    for folder in folders:
        yield from tree(folder)


def _environment() -> Iterator[Path]:
    """What makes a folder a virtual environment, and the commands of the installed packages."""
    if sys.prefix != sys.base_prefix:
        yield Path(sys.prefix, "pyvenv.cfg")
    yield Path(sysconfig.get_path("scripts"), "vmm-reference")


def tree(folder: Path, left_out: Collection[str] = _LEFT_OUT) -> Iterator[Path]:
    """The files below `folder` that a run of the tests can need, compiled modules included."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in {*left_out, "__pycache__"} and not name.startswith("config-")
        ]
        for name in names:
            path = Path(parent, name)
            if path.suffix not in _LEFT_OUT_SUFFIXES and not name.startswith("_tkinter."):
                yield path
            if path.suffix == ".py":
                compiled = _compiled(path)
                if compiled.exists():
                    yield compiled


def _compiled(source: Path) -> Path:
    """Where the interpreter keeps the compiled form; saves compiling on an emulated processor."""
    return source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"


def _is_elf(path: Path) -> bool:
    if path.suffix in {".py", ".pyc", ".txt"}:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def shared_libraries(programs: Iterable[Path]) -> set[Path]:
    """What the dynamic loader of this host would load for `programs`, the loader included."""
    command = ["ldd", *map(str, sorted(programs))]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return parse_ldd(listing)


def parse_ldd(listing: str) -> set[Path]:
    """The paths that ldd(1) names; what it does not find would be missing on this host as well."""
    resolved = re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", listing, re.MULTILINE)
    return {Path(path) for path in resolved}
