"""Builds `soft_kvm._ffi`: the engine's driver and the interrupt controllers, in C.

The C is compiled against the kernel's <linux/kvm.h> for the records of the KVM API, and against
nothing of Unicorn, which is looked up at run time.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

CORE = Path(__file__).parent / "_core"
SOURCES = sorted(path.name for path in CORE.glob("*.c"))
HEADERS = sorted(path.name for path in CORE.glob("*.h"))

ffibuilder = FFI()
ffibuilder.cdef((CORE / "api.cdef.h").read_text())
ffibuilder.cdef((CORE / "irqchip.cdef.h").read_text())
ffibuilder.set_source(
    "soft_kvm._ffi",
    '#include "api.h"\n#include "irqchip_pins.h"\n#include "probe.h"\n',
    sources=[f"src/soft_kvm/_core/{name}" for name in SOURCES],
    depends=[f"src/soft_kvm/_core/{name}" for name in HEADERS],
    include_dirs=["src/soft_kvm/_core"],
    libraries=["dl", "pthread"],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-g0"],
)
