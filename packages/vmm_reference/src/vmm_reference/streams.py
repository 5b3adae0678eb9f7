"""What the command itself says on its standard streams, and what it does if they are closed."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TextIO

PROGRAM = "vmm-reference"


def fill_closed_descriptors() -> frozenset[int]:
    """Put /dev/null where stdin, stdout or stderr is closed.

    The next file to be opened would take that number, and get what the guest prints.

    Returns:
        Which ones were closed.
    """
    closed = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
            closed.append(fd)
    return frozenset(closed)


def say(sentence: str) -> None:
    """Write `sentence` to stderr with the program's name before it, if that is possible."""
    with contextlib.suppress(OSError, ValueError):
        put(sys.stderr, f"{PROGRAM}: {sentence}\n")


def put(stream: TextIO | None, text: str) -> None:
    """Write `text` at once.

    Raises:
        OSError: it cannot be written, now or later: Python's own attempt at the end of the process
            would fail again and change the exit code.
    """
    if stream is None:  # it was closed when Python started
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _drop(stream)
        raise


def flush_stderr() -> None:
    """Write what stderr still holds, or drop it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            put(sys.stderr, "")


def _drop(stream: TextIO) -> None:
    """Let what `stream` still holds go to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
