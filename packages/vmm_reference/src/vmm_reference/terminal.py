"""The user's terminal: raw while a guest has it, and always given back.

In raw mode every key goes to the guest, Ctrl-C included; Ctrl-A is ours (`EscapeFilter`). Whatever
ends the process,
the terminal must be as it was: an ordinary end and an exception run `Terminal.restore`; a signal's
handler runs it; and for what no handler sees (SIGKILL, a crash in C) a small process waits at the
other end of a pipe and restores the terminal if this process goes without saying so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

CTRL_A = 0x01
_LEAVE = frozenset(b"xX")

# tcgetattr's list.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)

_GUARD_SCRIPT = 'trap "" INT TERM HUP QUIT TTOU TSTP; read -r _ || exec stty "$0" <&3'
"""Run by sh: stdin is the pipe, 3 the terminal. A line on the pipe means an orderly end."""


class Size(NamedTuple):
    """A terminal's size in characters."""

    rows: int
    columns: int


class Terminal:
    """The terminal at one file descriptor.

    A context manager: raw inside, as it was before outside. `restore` may be called at any time,
        from a signal
    handler too, and more than once.

    Args:
        fd: a terminal; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd)
        self._raw = False
        self._guard_pid = 0
        self._guard_pipe = -1

    @property
    def is_raw(self) -> bool:
        """Whether the terminal is raw now."""
        return self._raw

    @property
    def size(self) -> Size | None:
        """The size, or None if the terminal does not know it."""
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:
            return None
        return Size(rows, columns) if rows and columns else None

    def make_raw(self) -> None:
        """Pass every key on at once and unchanged, and every byte of output too."""
        if not self._guard_pid:
            self._start_guard()
        with contextlib.suppress(termios.error):  # it may have hung up
            self._set_raw()

    def restore(self) -> None:
        """Set the terminal to what it was when this object was made."""
        if not self._raw:
            return
        self._raw = False
        with contextlib.suppress(termios.error):  # it may have hung up
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def close(self) -> None:
        """Restore the terminal and dismiss the guard; may be called again."""
        self.restore()
        pid, self._guard_pid = self._guard_pid, 0
        if pid:
            with contextlib.suppress(OSError):
                os.write(self._guard_pipe, b"\n")
            os.close(self._guard_pipe)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def __enter__(self) -> Self:
        self.make_raw()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _set_raw(self) -> None:
        mode = termios.tcgetattr(self._fd)
        mode[_IFLAG] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[_OFLAG] &= ~termios.OPOST
        mode[_LFLAG] &= ~(
            termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
        )
        mode[_CFLAG] = mode[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[_CC][termios.VMIN] = 1
        mode[_CC][termios.VTIME] = 0
        self._raw = True
        # Drain, not flush: keys typed ahead are the guest's.
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)

    def _start_guard(self) -> None:
        """Start the process that restores the terminal when this one can not.

        It reads a pipe whose only writer is this process. Without sh or stty there is no guard,
        and everything else works as before.
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        # Above 3, so that no dup2 below overwrites what a later one copies.
        terminal = fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 10)
        try:
            self._guard_pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _GUARD_SCRIPT, _stty_settings(self._saved)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reading, 0),
                    (os.POSIX_SPAWN_DUP2, terminal, 3),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
            )
            self._guard_pipe = writing
        except OSError:
            os.close(writing)
        finally:
            os.close(reading)
            os.close(terminal)


def _stty_settings(mode: list[Any]) -> str:
    """Write tcgetattr's list as ``stty -g`` does: hexadecimal words joined by colons."""
    characters = [byte[0] if isinstance(byte, bytes) else byte for byte in mode[_CC]]
    words = (mode[_IFLAG], mode[_OFLAG], mode[_CFLAG], mode[_LFLAG], *characters)
    return ":".join(f"{word:x}" for word in words)


class EscapeFilter:
    """Takes the keys that are ours out of what the user types.

    Ctrl-A x leaves. Ctrl-A Ctrl-A is one Ctrl-A for the guest. Ctrl-A before any other key passes
    both on.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what goes to the guest, and whether the user wants to leave.

        What follows a Ctrl-A x is dropped.
        """
        if not self._held and CTRL_A not in data:
            return data, False
        out = bytearray()
        for key in data:
            if not self._held:
                if key == CTRL_A:
                    self._held = True
                else:
                    out.append(key)
                continue
            self._held = False
            if key in _LEAVE:
                return bytes(out), True
            out.append(CTRL_A)
            if key != CTRL_A:
                out.append(key)
        return bytes(out), False
