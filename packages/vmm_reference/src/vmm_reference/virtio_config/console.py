"""The value of ``--console``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from vmm_reference.errors import OptionError
from vmm_reference.options import Options


class ConsoleMode(enum.Enum):
    """Where the virtio console goes."""

    OFF = "off"
    """There is none."""
    NULL = "null"
    """There is one; what the guest writes is dropped, nothing comes in."""
    TTY = "tty"
    """The process's own stdin and stdout."""
    PTY = "pty"
    """A pseudo terminal of its own, for whoever attaches to it."""
    FILE = "file"
    """What the guest writes goes to a file, nothing comes in."""


@dataclass(frozen=True, slots=True)
class ConsoleConfig:
    """The virtio console, hvc0 for Linux.

    Attributes:
        mode: where it goes.
        file: the file for `ConsoleMode.FILE`, else None.
    """

    mode: ConsoleMode = ConsoleMode.OFF
    file: Path | None = None

    def __post_init__(self) -> None:
        """Require a file exactly where one is used."""
        if (self.mode is ConsoleMode.FILE) != (self.file is not None):
            reason = "a file goes with mode file and no other"
            raise OptionError("--console", self.mode.value, reason)

    @property
    def is_seen(self) -> bool:
        """Whether somebody may see what the guest writes."""
        return self.mode not in {ConsoleMode.OFF, ConsoleMode.NULL}

    @classmethod
    def parse(cls, text: str, flag: str = "--console") -> ConsoleConfig:
        """Read the value of ``--console``: ``off``, ``null``, ``tty``, ``pty`` or ``file=PATH``."""
        if text.startswith("file="):
            path = Options(flag, text, ("file",)).string("file")
            if not path:
                raise OptionError(flag, text, "a path must follow file=")
            return cls(ConsoleMode.FILE, Path(path))
        if text in {"off", "null", "tty", "pty"}:
            return cls(ConsoleMode(text))
        raise OptionError(flag, text, "there is: off, null, tty, pty, file=PATH")

    def __str__(self) -> str:
        return f'file="{self.file}"' if self.file is not None else self.mode.value
