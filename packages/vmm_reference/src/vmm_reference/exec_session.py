"""One command in the default guest, seen from outside: its output, its errors, its exit code.

The guest's init sends the command's standard output, its standard error and at last its exit code
(one decimal line) over three serial ports of their own, so that no byte of one can be taken for
another's. This is the host's end of the three.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vmm_reference.exit_codes import EndKind, ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.exit_codes import VmExit

logger = logging.getLogger(__name__)

_MAX_STATUS_LINE = 16


class ExecSession:
    """Collects what a command in the guest does.

    Args:
        stdout: takes the command's standard output, byte for byte.
        stderr: takes its standard error.
        on_status: called, on a vCPU's thread, when the exit code has arrived; the guest powers off
            next.
    """

    def __init__(
        self,
        stdout: Callable[[bytes], object],
        stderr: Callable[[bytes], object],
        on_status: Callable[[], object] = lambda: None,
    ) -> None:
        self.stdout = self._heard_by(stdout)
        self.stderr = self._heard_by(stderr)
        self._silent = True
        self._on_status = on_status
        self._line = bytearray()
        self._status: int | None = None

    @property
    def status(self) -> int | None:
        """The command's exit code, 0 to 255; None as long as it is not known."""
        return self._status

    def take_status(self, data: bytes) -> None:
        """Take bytes of the third port: one decimal line; whatever follows is ignored."""
        if self._status is not None:
            return
        self._line += data
        line, newline, _rest = self._line.partition(b"\n")
        if not newline:
            del self._line[_MAX_STATUS_LINE:]
            return
        text = bytes(line).strip()
        if text.isdigit() and len(text) <= 3:
            self._status = int(text) & 0xFF
            self._on_status()
        else:
            logger.warning("the guest sent %r where the command's exit code belongs", bytes(line))
            self._line.clear()

    def exit_code(self, end: VmExit) -> int:
        """Return the process's exit code: the command's own if the guest got that far.

        If it did not, the machine's end decides, and `complaint` says so; but an end that is
        success for a machine is a failure for a command that never ended. A signal to this process
        always decides.
        """
        if end.kind is EndKind.SIGNAL:
            return end.code
        if self._status is None:
            return end.code or int(ExitCode.HOST_ERROR)
        return self._status

    def complaint(self, end: VmExit) -> str:
        """Return a sentence for the user if the command did not get to its end, else nothing."""
        if self._status is not None or end.kind is EndKind.SIGNAL:
            return ""
        if end.kind is EndKind.RESET and self._silent:
            # before init has loaded the driver of pvpanic, a panic is a reset like any other
            return f"{end} while booting (a kernel panic? try --serial tty or more memory)"
        reason = f": {end.detail}" if end.detail else ""
        return f"{end.kind.value} before the command had ended{reason}"

    def _heard_by(self, output: Callable[[bytes], object]) -> Callable[[bytes], object]:
        def take(data: bytes) -> None:
            self._silent = False
            output(data)

        return take
