"""The interactive terminal: a shell prompt, the way out, and a terminal that is always restored."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

pytestmark = pytest.mark.boot

CTRL_A = b"\x01"
BOOT_TIMEOUT = 100
PROMPT = rb"# (\x1b\[6n)?$"  # the shell may ask the terminal where its cursor is


class Terminal:
    """A pseudo terminal with `vmm-reference` on it."""

    def __init__(self, command, *arguments, rows=33, columns=101):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            [command, *arguments],
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
        os.write(self.master, data)

    def expect(self, pattern: bytes, timeout: float = BOOT_TIMEOUT) -> re.Match[bytes]:
        """Wait for `pattern` in the output after the last match, and consume it."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.output)):
            self._read(deadline, f"{pattern!r} did not appear")
        self.output = self.output[match.end() :]
        return match

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


def test_shell_prompt_size_and_poweroff(vmm_command):
    """The guest's shell answers, knows the terminal's size, and its end powers the machine off."""
    with Terminal(vmm_command, "--hypervisor", "soft") as terminal:
        terminal.expect(PROMPT)
        assert terminal.is_raw
        terminal.send(b"echo $((6 * 7)); stty size\r")
        terminal.expect(rb"\r\n42\r\n33 101\r\n")
        terminal.expect(PROMPT)
        terminal.send(b"sleep 100\r")
        terminal.expect(rb"sleep 100\r\n")
        time.sleep(0.5)
        terminal.send(b"\x03")  # Ctrl-C belongs to the guest
        terminal.expect(PROMPT)
        terminal.send(b"exit\r")
        assert terminal.wait() == 0
        assert terminal.is_restored


def test_ctrl_a_x_leaves(vmm_command):
    """Ctrl-A x ends the machine at any time and restores the terminal."""
    with Terminal(vmm_command, "--hypervisor", "soft") as terminal:
        terminal.expect(rb"Linux version")
        assert terminal.is_raw
        terminal.send(CTRL_A)
        terminal.send(b"x")
        assert terminal.wait() == 0
        assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_restores_the_terminal(vmm_command, number):
    """A signal ends the machine with 128 + N, and the terminal is as before."""
    with Terminal(vmm_command, "--hypervisor", "soft") as terminal:
        terminal.expect(rb"Linux version")
        assert terminal.is_raw
        terminal.process.send_signal(number)
        assert terminal.wait() == 128 + number
        assert terminal.is_restored
