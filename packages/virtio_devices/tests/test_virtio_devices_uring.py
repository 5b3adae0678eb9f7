"""io_uring with a kernel that takes less than it is given, which no file makes it do."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

SOURCE = Path(__file__).with_name("partial_uring.c")
URING = Path(__file__).parents[1] / "src" / "virtio_devices" / "_c" / "uring.c"
INCLUDE = Path(sysconfig.get_paths()["include"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The function of partial_uring.c."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")
    for header in (INCLUDE / "Python.h", Path("/usr/include/linux/io_uring.h")):
        if not header.exists():
            pytest.skip(f"no {header}")
    library = tmp_path_factory.mktemp("c") / "partial_uring.so"
    flags = (
        *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-function"),
        *("-shared", "-fPIC", "-DPy_LIMITED_API=0x030B0000", f'-DURING="{URING}"'),
        f"-I{INCLUDE}",
    )
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library)).run


@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(0, 16), st.integers(0, 2)), max_size=20),
)
def test_what_the_kernel_does_not_take_now_it_never_takes(run, batches):
    """It is left to be done another way, and the next batch is its own; a signal is no refusal."""
    for number, (count, takes, interruptions) in enumerate(batches):
        results = (ctypes.c_int64 * count)()
        first = 100 * (number + 1)
        run(count, takes, interruptions, ctypes.c_int64(first), results)
        expected = [first + index for index in range(min(count, takes))]
        expected += [-errno.EAGAIN] * (count - len(expected))
        assert list(results) == expected
