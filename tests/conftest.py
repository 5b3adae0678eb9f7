"""Running the installed `vmm-reference` as its users do."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from functools import partial
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


class Terminal:
    """A pseudo terminal with `vmm-reference` on it."""

    def __init__(self, command, *arguments, rows=33, columns=101):
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            [command, *map(str, arguments)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            # no threads here; a terminal must become the controlling one in the child
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self.master, left) :]

    def resize(self, rows: int, columns: int) -> None:
        """Make the terminal another size; the kernel tells its foreground processes."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def expect(self, pattern: bytes, timeout: float = BOOT_TIMEOUT) -> re.Match[bytes]:
        """Wait for `pattern` in the output after the last match, and consume it."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.output)):
            self._read(deadline, f"{pattern!r} did not appear")
        self.output = self.output[match.end() :]
        return match

    def expect_prompt(self) -> None:
        """Wait for the guest's shell; it may ask the terminal where its cursor is."""
        self.expect(rb"py-vmm:\S+# (\x1b\[6n)?$")

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end of the process, reading what it still prints."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            self._read(min(deadline, time.monotonic() + 0.1))
            assert time.monotonic() < deadline, f"it does not end: {self.output[-2000:]!r}"
        return self.process.returncode

    def _read(self, deadline: float, complaint: str = "") -> None:
        patience = min(0.2, max(0, deadline - time.monotonic()))
        ready, _, _ = select.select([self.master], [], [], patience)
        if ready:
            self.output += os.read(self.master, 65536)
        elif complaint and (self.process.poll() is not None or time.monotonic() >= deadline):
            pytest.fail(f"{complaint} in {self.output[-2000:]!r}")

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    @property
    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before


@pytest.fixture
def vmm_on_terminal(vmm_command):
    """A function that starts `vmm-reference` with arguments on a `Terminal`, a context manager."""
    return partial(Terminal, vmm_command)


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
