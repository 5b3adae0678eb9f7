"""Running the installed `vmm-reference` as its users do."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

BOOT_TIMEOUT = 100


@dataclass(frozen=True)
class Ended:
    """What a finished `vmm-reference` left behind."""

    code: int
    stdout: bytes
    stderr: str


@pytest.fixture
def vmm_command():
    """The console script of the environment that runs the tests."""
    found = shutil.which("vmm-reference", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.fail("vmm-reference is not installed beside this Python")
    return found


@pytest.fixture
def vmm(vmm_command):
    """A function that runs `vmm-reference` with arguments and waits for its end."""

    def run(*arguments, prefix=(), env=None, timeout=BOOT_TIMEOUT, pass_fds=()) -> Ended:
        done = subprocess.run(
            [*prefix, vmm_command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            pass_fds=pass_fds,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    return run


@pytest.fixture
def elf_kernel(tmp_path):
    """A function that writes machine code as the smallest 64-bit ELF kernel, loaded at 16 MiB."""

    def write(code: bytes) -> Path:
        entry, header_size = 0x100_0000, 64 + 56
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        header = struct.pack(
            "<16sHHIQQQIHHHHHH", ident, 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0
        )
        size = len(code)
        segment = struct.pack(
            "<IIQQQQQQ", 1, 5, header_size, entry, entry, size, max(size, 0x1000), 0x1000
        )
        path = tmp_path / "kernel.elf"
        path.write_bytes(header + segment + code)
        return path

    return write
