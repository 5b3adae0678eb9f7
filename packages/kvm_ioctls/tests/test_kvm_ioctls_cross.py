"""The C parts compile against the kernel headers of every architecture that we know."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "kvm_ioctls"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_the_declarations_match_the_header(machine, tmp_path):
    """The compiler finds each structure, member and number of the `.cdef` files."""
    compiler = shutil.which(f"{machine}-linux-gnu-gcc")
    if compiler is None or not SOURCES.exists():
        pytest.skip(f"no compiler with kernel headers for {machine}")
    spec = importlib.util.spec_from_file_location("_ffi_build", SOURCES / "_ffi_build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    generated = tmp_path / "_ffi.c"
    build.make(machine).emit_c_code(str(generated))
    libc = f"/usr/{machine}-linux-gnu/include"
    flags = ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", "-idirafter", libc]
    flags += [f"-I{sysconfig.get_path('include')}", "-DPy_LIMITED_API=0x030b0000"]
    files = [str(generated), *map(str, sorted(SOURCES.glob("_[!f]*.c")))]
    done = subprocess.run(
        [compiler, *flags, *files], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
