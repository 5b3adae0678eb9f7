"""Builds `kvm_ioctls._ffi` against the kernel's header.

Nothing of the kernel's ABI is written down here: the `.cdef` files say which names we use, and the
C compiler answers with the offsets, sizes and numbers of the <linux/kvm.h> that it finds.
"""

from __future__ import annotations

import platform
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
PARTS = ("mapping", "rings", "zones")
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv"}


def make(machine: str) -> FFI:
    """What is compiled on a `machine`, as `platform.machine()` calls it.

    Raises:
        RuntimeError: the package has no declarations for it.
    """
    if machine not in ARCHITECTURES:
        raise RuntimeError(f"kvm_ioctls knows {', '.join(ARCHITECTURES)}, not {machine}")
    made = FFI()
    for part in ("_caps", "", f"_{ARCHITECTURES[machine]}"):
        made.cdef((HERE / f"_kvm{part}.cdef").read_text())
    made.set_source(
        "kvm_ioctls._ffi",
        '#include "_layout.h"',
        sources=[f"src/kvm_ioctls/_{name}.c" for name in PARTS],
        depends=[f"src/kvm_ioctls/_{name}.h" for name in ("layout", "newer", *PARTS)],
        include_dirs=["src/kvm_ioctls"],
        extra_compile_args=["-Wall", "-Wextra", "-Werror", "-O2", "-g0"],
    )
    return made


ffibuilder = make(platform.machine())
