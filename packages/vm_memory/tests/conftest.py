"""What the tests of vm_memory share."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def table_reader(tmp_path_factory):
    """The C code of tests/table_reader.c, compiled; its functions take a table's bytes first."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")
    library = tmp_path_factory.mktemp("table") / "table_reader.so"
    source = Path(__file__).parent / "table_reader.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    loaded = ctypes.CDLL(str(library))
    word = ctypes.c_uint64
    loaded.table_read.argtypes = [ctypes.c_char_p, word, ctypes.c_char_p, word]
    loaded.table_write.argtypes = [ctypes.c_char_p, word, ctypes.c_char_p, word]
    loaded.table_touch.argtypes = [ctypes.c_char_p, word, word]
    loaded.table_count_up.argtypes = [ctypes.c_char_p, word, word, word]
    return loaded
