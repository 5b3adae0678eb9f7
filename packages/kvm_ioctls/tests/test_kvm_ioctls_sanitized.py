"""The C parts under AddressSanitizer and UndefinedBehaviorSanitizer, by the tests that use them."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import kvm_ioctls

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src" / "kvm_ioctls"
USERS = (
    "descriptor", "dirty", "exits", "kicker", "kvm", "lists", "memory", "requests", "rings",
    "runner", "state", "zones",
)  # fmt: skip


def library(name: str) -> str:
    """The compiler's run-time library, or a skip."""
    compiler = shutil.which("gcc")
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("the C is under a sanitizer as it is")
    if compiler is None or not SOURCES.exists():
        pytest.skip("no compiler with sanitizers")
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("no compiler with sanitizers")
    return found


def compile_sanitized(into: Path) -> None:
    """Both modules of the copy of the package in `into`, each with all of our C."""
    generated = into / "_ffi.c"
    runpy.run_path(str(SOURCES / "_ffi_build.py"))["ffibuilder"].emit_c_code(str(generated))
    flags = ["-shared", "-fPIC", "-g", "-O1", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=all", f"-I{SOURCES}", f"-I{sysconfig.get_path('include')}"]
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        flags.append("-DPy_LIMITED_API=0x030b0000")
    ours = sorted(str(path) for path in SOURCES.glob("_*.c") if path.name != "_ffi.c")
    for name, more in (("_run", []), ("_ffi", [str(generated)])):
        module = next(into.glob(f"{name}*.so"))
        subprocess.run(["gcc", *flags, *more, *ours, "-o", str(module)], check=True)


@pytest.mark.timeout(400)
def test_nothing_is_found(tmp_path):
    """Whatever is in C touches only what is its own."""
    runtime = f"{library('libasan.so')} {library('libubsan.so')}"
    copy = tmp_path / "kvm_ioctls"
    shutil.copytree(Path(kvm_ioctls.__file__).parent, copy)
    compile_sanitized(copy)
    sanitized = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps what it has to the end
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tmp_path),
    }
    tests = [str(TESTS / f"test_kvm_ioctls_{name}.py") for name in USERS]
    check = "import kvm_ioctls, pytest, sys; assert kvm_ioctls.__file__.startswith(sys.argv[1]); "
    run = "sys.exit(pytest.main(['-qs', '-p', 'no:cacheprovider', *sys.argv[2:]]))"
    done = subprocess.run(
        [sys.executable, "-c", check + run, str(tmp_path), *tests],
        env=os.environ | sanitized,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
