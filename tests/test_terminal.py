"""The interactive terminal: a shell prompt, the way out, and a terminal that is always restored."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios
import time

import pytest

pytestmark = pytest.mark.boot

CTRL_A = b"\x01"


def test_shell_prompt_size_and_poweroff(vmm_on_terminal):
    """The guest's shell answers, knows the terminal's size, and its end powers the machine off."""
    with vmm_on_terminal("--hypervisor", "soft") as terminal:
        terminal.expect_prompt()
        assert terminal.is_raw
        terminal.send(b"echo $((6 * 7)); stty size\r")
        terminal.expect(rb"\r\n42\r\n33 101\r\n")
        terminal.expect_prompt()
        terminal.send(b"sleep 100\r")
        terminal.expect(rb"sleep 100\r\n")
        time.sleep(0.5)
        terminal.send(b"\x03")  # Ctrl-C belongs to the guest
        terminal.expect_prompt()
        terminal.send(b"exit\r")
        assert terminal.wait() == 0
        assert terminal.is_restored


def test_ctrl_a_x_leaves(vmm_on_terminal):
    """Ctrl-A x ends the machine at any time and restores the terminal."""
    with vmm_on_terminal("--hypervisor", "soft") as terminal:
        terminal.expect(rb"Linux version")
        assert terminal.is_raw
        terminal.send(CTRL_A)
        terminal.send(b"x")
        assert terminal.wait() == 0
        assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_restores_the_terminal(vmm_on_terminal, number):
    """A signal ends the machine with 128 + N, and the terminal is as before."""
    with vmm_on_terminal("--hypervisor", "soft") as terminal:
        terminal.expect(rb"Linux version")
        assert terminal.is_raw
        terminal.process.send_signal(number)
        assert terminal.wait() == 128 + number
        assert terminal.is_restored


def test_a_terminal_of_another_session(vmm_command, elf_kernel):
    """Its end is that of the machine, although nobody sends a signal."""
    master, slave = pty.openpty()
    spin = elf_kernel(bytes.fromhex("ebfe"))
    command = [vmm_command, "--hypervisor", "soft", "--memory", "size=64M", "--kernel", str(spin)]
    terminal = {"stdin": slave, "stdout": slave, "stderr": slave}
    process = subprocess.Popen(command, **terminal, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while termios.tcgetattr(slave)[3] & termios.ICANON:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.close(slave)
        os.close(master)
        assert process.wait(30) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
