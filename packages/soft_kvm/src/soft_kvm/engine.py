"""Finds and loads the Unicorn engine.

The engine's own Python binding is not imported: it costs 70 ms and calls through ctypes.  Only its
shared library is used, from wherever the `unicorn` distribution was installed.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from soft_kvm._ffi import ffi, lib
from soft_kvm.errors import EngineError

SUPPORTED = (2, 1)
"""The engine's major and minor version whose behaviour soft_kvm knows."""

HASWELL = 19
"""uc_cpu_x86: an Intel model whose every advertised instruction the engine has.

Newer models advertise more than the engine executes.
"""


def library_path() -> Path:
    """Where the engine's shared library is.

    Raises:
        EngineError: the `unicorn` distribution is not installed, or has no library.
    """
    spec = importlib.util.find_spec("unicorn")
    if spec is None or spec.origin is None:
        raise EngineError("the Unicorn engine is not installed; pip install 'unicorn>=2.1.4,<2.2'")
    found = sorted(Path(spec.origin).parent.glob("lib/libunicorn.so*"))
    if not found:
        raise EngineError(f"no libunicorn.so beside {spec.origin}")
    return found[0]


@cache
def load() -> None:
    """Loads the engine into this process, once.

    Raises:
        EngineError: it cannot be loaded, or is of another version than `SUPPORTED`.
    """
    path = library_path()
    problem = lib.sk_unicorn_load(str(path).encode())
    if problem != ffi.NULL:
        raise EngineError(f"cannot use {path}: {ffi.string(problem).decode()}")
    major, minor = ffi.new("unsigned *"), ffi.new("unsigned *")
    lib.sk_uc.version(major, minor)
    if (major[0], minor[0]) != SUPPORTED:
        wanted = ".".join(map(str, SUPPORTED))
        raise EngineError(f"{path} is Unicorn {major[0]}.{minor[0]}; soft_kvm needs {wanted}")


def check(code: int, what: str) -> None:
    """Raises EngineError unless the engine's error `code` is none."""
    if code:
        raise EngineError(f"{what}: {ffi.string(lib.sk_uc.strerror(code)).decode()}")
