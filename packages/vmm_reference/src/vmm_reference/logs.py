"""Where log messages go: to stderr as short lines, or to a file with everything about them.

Messages below the chosen level cost a comparison. On a raw terminal a line ends with a carriage
return, too.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from vmm_reference.errors import InputFileError
from vmm_reference.os_reason import os_reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOTICE = 25
"""What a user should know though nothing is wrong: between `logging.INFO` and `logging.WARNING`."""

_LEVELS = (NOTICE, logging.INFO, logging.DEBUG)
_PACKAGES = (
    "kvm_ioctls",
    "linux_loader",
    "soft_kvm",
    "virtio_devices",
    "vm_allocator",
    "vm_memory",
    "vmm_reference",
)


class _ShortFormatter(logging.Formatter):
    """``warning: message``, a notice without a word before it; with -v also when and where."""

    def __init__(self, *, verbose: bool) -> None:
        where = "%(relativeCreated)7.0f ms %(name)s " if verbose else ""
        super().__init__(where + "%(levelname)s: %(message)s")
        self._notice = logging.Formatter(where + "%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno == NOTICE:
            return self._notice.format(record)
        record.levelname = record.levelname.lower()
        return super().format(record)


class _Lossy(logging.StreamHandler[Any]):
    """A handler that says once when its messages cannot be written, and then goes on without."""

    on_failure: Callable[[str], object] = staticmethod(lambda _sentence: None)
    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  # logging's name
        """Say what went wrong, the first time."""
        self._complain(sys.exc_info()[1])

    def close(self) -> None:
        """Close the file; what cannot be written any more is lost."""
        try:
            super().close()
        except (OSError, ValueError) as error:
            self._complain(error)

    def _complain(self, error: BaseException | None) -> None:
        if not self._failed:
            self._failed = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.on_failure(f"the log cannot be written: {reason.lower()}")


class _LossyFile(_Lossy, logging.FileHandler):
    """The same for a file of its own."""


class LogSetup:
    """The log of this process.

    Args:
        verbosity: 0 for warnings and notices, 1 for what happens, 2 or more for everything.
        file: where to write instead of stderr.
        on_failure: told once, as a sentence, when messages cannot be written.

    Raises:
        InputFileError: the file cannot be written.
    """

    def __init__(
        self,
        verbosity: int,
        file: Path | None,
        on_failure: Callable[[str], object] = lambda _sentence: None,
    ) -> None:
        self._handler: _Lossy
        if file is None:
            self._handler = _Lossy(sys.stderr)
            self._handler.setFormatter(_ShortFormatter(verbose=verbosity > 0))
        else:
            self._handler = _file_handler(file)
        self._handler.on_failure = on_failure
        logging.addLevelName(NOTICE, "NOTICE")
        level = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
        for name in _PACKAGES:
            package = logging.getLogger(name)
            package.setLevel(level)
            package.addHandler(self._handler)
            package.propagate = False

    def on_raw_terminal(self, raw: bool) -> None:
        """End lines as a raw terminal needs it, or no longer."""
        self._handler.terminator = "\r\n" if raw else "\n"

    def close(self) -> None:
        """Take the handler off again, and close the file."""
        for name in _PACKAGES:
            logging.getLogger(name).removeHandler(self._handler)
        self._handler.close()


def _file_handler(file: Path) -> _Lossy:
    try:
        handler = _LossyFile(file, encoding="utf-8")
    except OSError as error:
        reason = f"cannot be written: {os_reason(error)}"
        raise InputFileError("--log-file", file, reason) from error
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s %(threadName)s: %(message)s")
    )
    return handler
