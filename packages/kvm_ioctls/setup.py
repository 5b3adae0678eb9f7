"""The compiled modules; everything else about the package is in pyproject.toml."""

import sysconfig

from setuptools import Extension, setup

free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
limited = {} if free_threaded else {"define_macros": [("Py_LIMITED_API", "0x030b0000")]}
sources = ("coalesced", "exits", "handle", "run", "runner", "zones")
headers = ("coalesced", "exits", "handle", "newer", "runner", "zones")

setup(
    cffi_modules=["src/kvm_ioctls/_ffi_build.py:ffibuilder"],
    ext_modules=[
        Extension(
            "kvm_ioctls._run",
            [f"src/kvm_ioctls/_{name}.c" for name in sources],
            depends=[f"src/kvm_ioctls/_{name}.h" for name in headers],
            include_dirs=["src/kvm_ioctls"],
            extra_compile_args=["-Wall", "-Wextra", "-Werror", "-O2", "-g0"],
            py_limited_api=not free_threaded,
            **limited,
        )
    ],
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
