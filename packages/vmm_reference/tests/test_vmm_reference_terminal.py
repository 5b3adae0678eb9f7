"""The terminal is raw while a guest has it, and always given back."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from vmm_reference.signals import SignalHandlers
from vmm_reference.terminal import Terminal

SHOWN = termios.ICANON | termios.ECHO | termios.ISIG


@pytest.fixture
def slave():
    """A pseudo terminal's slave side."""
    master, slave = pty.openpty()
    yield slave
    os.close(master)
    os.close(slave)


def is_raw(fd):
    return not termios.tcgetattr(fd)[3] & SHOWN


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_raw_inside_as_before_outside(slave):
    """The block has a raw terminal; after it every setting is as before."""
    before = termios.tcgetattr(slave)
    with Terminal(slave) as terminal:
        assert is_raw(slave)
        assert terminal.is_raw
    assert termios.tcgetattr(slave) == before
    assert not terminal.is_raw


def test_a_terminal_that_is_gone():
    """What has hung up cannot be changed, and need not be."""
    master, slave = pty.openpty()
    terminal = Terminal(slave)
    os.close(master)
    terminal.make_raw()
    terminal.close()
    os.close(slave)


def test_restored_after_an_exception(slave):
    """An exception out of the block changes nothing about that."""
    before = termios.tcgetattr(slave)
    with pytest.raises(ZeroDivisionError), Terminal(slave):
        _ = 1 // 0
    assert termios.tcgetattr(slave) == before


def test_unusual_settings_survive(slave):
    """What is restored is what was there, not what is usual."""
    mode = termios.tcgetattr(slave)
    mode[3] &= ~termios.ECHO
    mode[6][termios.VINTR] = b"\x02"
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    before = termios.tcgetattr(slave)
    Terminal(slave).__enter__().close()
    assert termios.tcgetattr(slave) == before


def test_close_is_idempotent(slave):
    """Closing twice, or without having been raw, is harmless."""
    terminal = Terminal(slave)
    terminal.close()
    terminal.close()
    assert not is_raw(slave)


def test_raw_again_after_restore(slave):
    """A stopped and continued process takes the terminal again."""
    with Terminal(slave) as terminal:
        terminal.restore()
        assert not is_raw(slave)
        terminal.make_raw()
        assert is_raw(slave)


@pytest.mark.parametrize(("rows", "columns", "size"), [(33, 101, (33, 101)), (0, 0, None)])
def test_size(slave, rows, columns, size):
    """The size is the terminal's, or None if it does not know it."""
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    assert Terminal(slave).size == size


RAW_PROCESS = """
import os, signal, sys, time
from vmm_reference.terminal import Terminal
terminal = Terminal(0)
terminal.make_raw()
os.write(1, b"raw")
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda n: n.name)
def test_restored_after_a_crash(slave, pipe, number):
    """A process that dies without a word leaves the terminal as it was, too."""
    before = termios.tcgetattr(slave)
    process = subprocess.Popen([sys.executable, "-c", RAW_PROCESS], stdin=slave, stdout=pipe[1])
    assert os.read(pipe[0], 3) == b"raw"
    assert is_raw(slave)
    process.send_signal(number)
    process.wait(10)
    wait_for(lambda: termios.tcgetattr(slave) == before)


SIGNALLED_PROCESS = """
import os, signal, sys, time
from vmm_reference.signals import SignalHandlers
from vmm_reference.terminal import Terminal
ended = []
with Terminal(0) as terminal, SignalHandlers(ended.append, terminal):
    os.write(1, b"raw")
    while not ended:
        time.sleep(0.01)  # pause() would miss a signal that comes before it
sys.exit(ended[0])
"""


@pytest.fixture
def signalled(slave, pipe):
    """A process that has the terminal, on a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED_PROCESS],
        stdin=slave,
        stdout=pipe[1],
        start_new_session=True,
    )
    assert os.read(pipe[0], 3) == b"raw"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT],
    ids=lambda n: n.name,
)
def test_ending_signals_are_told_and_restore(signalled, slave, number):
    """An ending signal gives the terminal back at once and tells the owner its number."""
    signalled.send_signal(number)
    assert signalled.wait(10) == number
    assert not is_raw(slave)


def stopped(pid):
    """Whether the process is stopped (third field of stat, after the name in brackets)."""
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # not a file of ours
        return stat.read().rpartition(")")[2].split()[0] == "T"


def test_stop_and_continue(signalled, slave):
    """A stopped process gives the terminal back, a continued one takes it again."""
    before = termios.tcgetattr(slave)
    before[3] |= SHOWN
    signalled.send_signal(signal.SIGTSTP)
    # In a session of its own the process group is an orphan, which SIGTSTP does not stop
    # (POSIX 2.4.3); the handler then goes on at once, and SIGCONT makes it raw again.
    signalled.send_signal(signal.SIGSTOP)
    wait_for(lambda: stopped(signalled.pid))
    signalled.send_signal(signal.SIGCONT)
    wait_for(lambda: is_raw(slave))
    signalled.send_signal(signal.SIGTERM)
    assert signalled.wait(10) == signal.SIGTERM
    assert not is_raw(slave)


def test_a_resize_is_told(slave):
    """Every SIGWINCH of a terminal, one that comes during another too; none without a terminal."""
    before = signal.getsignal(signal.SIGWINCH)
    told = []

    def on_resize():
        told.append(len(told))
        if len(told) == 1:
            signal.raise_signal(signal.SIGWINCH)

    with SignalHandlers(print, Terminal(slave), on_resize):
        signal.raise_signal(signal.SIGWINCH)
    assert told == [0, 1]
    with SignalHandlers(print, None, on_resize):
        signal.raise_signal(signal.SIGWINCH)
    assert told == [0, 1]
    assert signal.getsignal(signal.SIGWINCH) == before


def test_handlers_are_put_back():
    """After the block the process's own handlers are there again."""
    before = signal.getsignal(signal.SIGTERM)
    with SignalHandlers(print):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_ignored_signals_stay_ignored():
    """What nohup ignores is not handled."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalHandlers(print):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
