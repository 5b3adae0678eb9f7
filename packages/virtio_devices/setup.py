"""The compiled module; everything else about the package is in pyproject.toml."""

import sysconfig
from pathlib import Path

from setuptools import Extension, setup

SOURCES = "src/virtio_devices/_c"
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

core = Extension(
    "virtio_devices._core",
    sources=sorted(str(path) for path in Path(SOURCES).glob("*.c")),
    depends=[f"{SOURCES}/core.h", f"{SOURCES}/frame.h"],
    define_macros=[] if free_threaded else [("Py_LIMITED_API", "0x030B0000")],
    py_limited_api=not free_threaded,
    extra_compile_args=[
        *("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-g0", "-fvisibility=hidden"),
        "-Wno-cast-function-type",  # how CPython's method and slot tables are filled
    ],
)

setup(
    ext_modules=[core],
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
