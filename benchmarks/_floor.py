"""Floors: the same work in C, compiled for the run as a module of cffi's API mode."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import cffi


def compile_floor(name: str, declarations: str, folder: str) -> Any:
    """The module made of ``benchmarks/NAME.c``, with `ffi` and `lib`."""
    builder = cffi.FFI()
    builder.cdef(declarations)
    here = Path(__file__).parent
    source = (here / f"{name}.c").read_text()
    builder.set_source(name, source, extra_compile_args=["-O2"], include_dirs=[str(here)])
    path = builder.compile(tmpdir=folder)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
