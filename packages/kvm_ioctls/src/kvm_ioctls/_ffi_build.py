"""Builds `kvm_ioctls._ffi` against the kernel's header.

Nothing of the kernel's ABI is written down here: `_kvm.cdef` says which names we use, and the C
compiler answers with the offsets, sizes and numbers of the <linux/kvm.h> that it finds.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

ffibuilder = FFI()
ffibuilder.cdef((HERE / "_kvm.cdef").read_text())
ffibuilder.set_source(
    "kvm_ioctls._ffi",
    '#include "_layout.h"',
    sources=["src/kvm_ioctls/_runner.c"],
    depends=[f"src/kvm_ioctls/{name}" for name in ("_runner.h", "_layout.h", "_newer.h")],
    include_dirs=["src/kvm_ioctls"],
    extra_compile_args=["-Wall", "-Wextra", "-Werror", "-O2", "-g0"],
)
