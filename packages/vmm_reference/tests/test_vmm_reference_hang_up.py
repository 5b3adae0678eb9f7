"""A terminal that goes away ends the machine that it belongs to, without a signal too."""

from __future__ import annotations

import os
import pty
import threading
import time
import tty

import pytest

from vmm_reference import (
    ConsoleConfig,
    ConsoleMode,
    EndKind,
    HostIo,
    HypervisorChoice,
    MemoryConfig,
    PayloadConfig,
    SerialConfig,
    SerialMode,
    Vm,
    VmConfig,
)
from vmm_reference.event_loop import EventLoop
from vmm_reference.hang_up import HangUp

SPIN = bytes.fromhex("ebfe")
SIGHUP_CODE = 129


class Pty:
    """A raw terminal, and who is at it."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)

    def leave(self):
        """Close the user's end."""
        if self.master >= 0:
            os.close(self.master)
        self.master = -1


@pytest.fixture
def terminal():
    made = Pty()
    yield made
    made.leave()
    os.close(made.slave)


@pytest.fixture
def loop():
    errors = []
    with EventLoop(errors.append) as made:
        made.start()
        yield made
    assert errors == []


def test_keys_are_no_hang_up(loop, terminal):
    """Only the end of the terminal is told, once; keys stay for who reads them."""
    gone = []
    watch = HangUp(loop, terminal.slave, lambda: gone.append(True))
    for key in b"abc":
        os.write(terminal.master, bytes([key]))
        time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.05  # keys that wait are not looked at again and again
    assert gone == []
    assert os.read(terminal.slave, 16) == b"abc"
    terminal.leave()
    deadline = time.monotonic() + 10
    while not gone and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.03)
    assert gone == [True]
    watch.close()
    watch.close()


def test_a_terminal_that_is_gone_already(loop, terminal):
    """Who comes too late is told as well."""
    terminal.leave()
    gone = threading.Event()
    watch = HangUp(loop, terminal.slave, gone.set)
    assert gone.wait(10)
    watch.close()


def test_after_close_nothing_is_told(loop, terminal):
    """A machine that has ended has nothing to end."""
    watch = HangUp(loop, terminal.slave, pytest.fail)
    watch.close()
    terminal.leave()
    time.sleep(0.03)


@pytest.mark.parametrize("typed", [0, 2000], ids=["nothing typed", "no room for what is typed"])
@pytest.mark.parametrize("flag", ["serial", "console"])
def test_a_machine_ends_with_its_terminal(elf_kernel, terminal, flag, typed):
    """As by SIGHUP, whichever console is there, also if its guest never reads."""
    on_serial = flag == "serial"
    config = VmConfig(
        payload=PayloadConfig(kernel=elf_kernel(SPIN)),
        memory=MemoryConfig(32 << 20),
        hypervisor=HypervisorChoice.SOFT,
        serial=SerialConfig(SerialMode.TTY if on_serial else SerialMode.NULL),
        console=ConsoleConfig(ConsoleMode.OFF if on_serial else ConsoleMode.TTY),
    )
    io = HostIo(stdin=terminal.slave, stdout=terminal.slave, interactive=True)
    with Vm(config, io=io) as vm:
        vm.boot()
        os.write(terminal.master, b"k" * typed)
        assert vm.wait(50_000_000) is None
        terminal.leave()
        end = vm.wait(10_000_000_000)
        assert end is not None
        assert (end.kind, end.code) == (EndKind.SIGNAL, SIGHUP_CODE)
