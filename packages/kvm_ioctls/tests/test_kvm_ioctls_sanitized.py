"""The C parts under AddressSanitizer and UndefinedBehaviorSanitizer, by the tests that use them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import kvm_ioctls

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src" / "kvm_ioctls"
C_FILES = ("_coalesced", "_exits", "_run", "_runner", "_zones")
USERS = ("exits", "kicker", "kvm", "rings", "zones", "requests", "state")


def library(name: str) -> str:
    """The compiler's run-time library, or a skip."""
    compiler = shutil.which("gcc")
    if compiler is None or not SOURCES.exists():
        pytest.skip("no compiler with sanitizers")
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("no compiler with sanitizers")
    return found


@pytest.mark.timeout(300)
def test_nothing_is_found(tmp_path):
    """Decoding, running, zones and system calls touch only what is theirs."""
    runtime = f"{library('libasan.so')} {library('libubsan.so')}"
    copy = tmp_path / "kvm_ioctls"
    shutil.copytree(Path(kvm_ioctls.__file__).parent, copy)
    module = next(copy.glob("_run*.so"))
    flags = ["-shared", "-fPIC", "-g", "-O1", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=all", f"-I{SOURCES}", f"-I{sysconfig.get_path('include')}"]
    files = [str(SOURCES / f"{name}.c") for name in C_FILES]
    limited = [] if sysconfig.get_config_var("Py_GIL_DISABLED") else ["-DPy_LIMITED_API=0x030b0000"]
    subprocess.run(["gcc", *flags, *limited, *files, "-o", str(module)], check=True)
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
