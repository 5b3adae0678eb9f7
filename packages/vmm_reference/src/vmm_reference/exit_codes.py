"""How a virtual machine ended, and the exit code that tells it to a shell.

| code | meaning |
| --- | --- |
| 0 | the guest powered off |
| *CMD's own* | with ``--exec``: the command's exit code |
| 1 | an error of the host or of the VMM; with ``--exec``: no exit code of CMD before power-off |
| 2 | usage: a bad flag, value or input file |
| 32 | the guest reset (``reboot``) |
| 33 | the guest's processor shut down: a triple fault |
| 34 | the guest's kernel panicked |
| 35 | the hypervisor gave up: internal error, failed entry |
| 128 + N | ended by signal N (also 141 = SIGPIPE: nobody reads our output any more) |

Ctrl-A x on the terminal is the user's own way out and ends with 0.
"""

from __future__ import annotations

import enum
import errno
import signal
from dataclasses import dataclass

from vmm_reference.os_reason import os_reason


class ExitCode(enum.IntEnum):
    """Exit codes of ``vmm-reference``; see the table above."""

    POWERED_OFF = 0
    HOST_ERROR = 1
    USAGE = 2
    RESET = 32
    TRIPLE_FAULT = 33
    PANIC = 34
    HYPERVISOR_FAILED = 35


class EndKind(enum.Enum):
    """Why a virtual machine came to its end."""

    POWERED_OFF = "the guest powered off"
    STOPPED = "the virtual machine was stopped"
    RESET = "the guest reset"
    TRIPLE_FAULT = "the guest's processor shut down (triple fault)"
    PANIC = "the guest's kernel panicked"
    HYPERVISOR_FAILED = "the hypervisor gave up"
    SIGNAL = "ended by a signal"
    ERROR = "the VMM failed"


_CODES = {
    EndKind.POWERED_OFF: ExitCode.POWERED_OFF,
    EndKind.STOPPED: ExitCode.POWERED_OFF,
    EndKind.RESET: ExitCode.RESET,
    EndKind.TRIPLE_FAULT: ExitCode.TRIPLE_FAULT,
    EndKind.PANIC: ExitCode.PANIC,
    EndKind.HYPERVISOR_FAILED: ExitCode.HYPERVISOR_FAILED,
    EndKind.ERROR: ExitCode.HOST_ERROR,
}


@dataclass(frozen=True, slots=True)
class VmExit:
    """The end of a virtual machine.

    Attributes:
        kind: why it ended.
        detail: what more is known, as half a sentence; may be empty.
        signal: the signal's number for `EndKind.SIGNAL`, else 0.
        error: the exception behind `EndKind.ERROR`, when there is one.
    """

    kind: EndKind
    detail: str = ""
    signal: int = 0
    error: BaseException | None = None

    @classmethod
    def by_signal(cls, number: int) -> VmExit:
        """The end of a virtual machine whose process was asked to go by signal `number`."""
        return cls(EndKind.SIGNAL, f"signal {number}", signal=number)

    @classmethod
    def by_lost_stdout(cls, error: OSError) -> VmExit:
        """The end of a virtual machine whose output nobody reads any more.

        It is that of any program that writes to a closed pipe or to a terminal that hung up.
        """
        if error.errno == errno.EPIPE:
            return cls.by_signal(signal.SIGPIPE)
        if error.errno == errno.EIO:
            return cls.by_signal(signal.SIGHUP)
        return cls(EndKind.ERROR, f"cannot write to stdout: {os_reason(error)}", error=error)

    @property
    def code(self) -> int:
        """The exit code of a process that did nothing but run this machine."""
        if self.kind is EndKind.SIGNAL:
            return 128 + self.signal
        return int(_CODES[self.kind])

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}" if self.detail else self.kind.value
