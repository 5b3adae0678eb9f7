"""Which serial ports a machine has, and what of the host is at their other ends.

COM1 is the console, as ``--serial`` says. With a command to run, COM2 to COM4 carry its output, its
errors and its exit code; then stdout is the command's alone and the console, if it goes to the
terminal at all, shares stderr.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from vmm_reference.config import SerialMode
from vmm_reference.console import ConsoleInput, FdWriter
from vmm_reference.device_manager import SerialLine
from vmm_reference.exec_session import ExecSession
from vmm_reference.exit_codes import EndKind, VmExit
from vmm_reference.os_reason import os_reason
from vmm_reference.output_file import OutputFile
from vmm_reference.terminal import EscapeFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmm_reference.config import VmConfig
    from vmm_reference.event_loop import EventLoop
    from vmm_reference.host_io import HostIo
    from vmm_reference.legacy.serial import Serial

logger = logging.getLogger(__name__)

_BATCH = 4096
_POWEROFF_GRACE_NS = 10_000_000_000
"""How long a guest may take to power off after its command has ended."""


class SerialLines:
    """The host's side of a machine's serial ports.

    Args:
        config: the machine.
        io: the host's descriptors.
        loop: where input is read.
        stop: ends the machine.

    Attributes:
        lines: what the machine's ports are to be.
        session: the command's output and exit code, if there is a command.

    Raises:
        InputFileError: the file for ``--serial file=`` cannot be used.
    """

    def __init__(
        self, config: VmConfig, io: HostIo, loop: EventLoop, stop: Callable[[VmExit], object]
    ) -> None:
        self._io = io
        self._loop = loop
        self._stop = stop
        self._teardown = contextlib.ExitStack()
        self._input: ConsoleInput | None = None
        self._file: OutputFile | None = None
        self._ports: Mapping[int, Serial] = {}
        self.lines: list[SerialLine] = []
        self.session: ExecSession | None = None
        executes = config.payload.exec_command is not None
        self._add_console(config, executes=executes)
        if executes:
            self._add_session()

    def empty_file(self) -> None:
        """Empty the file for ``--serial file=``, if there is one.

        Raises:
            InputFileError: the host does not permit it.
        """
        if self._file is not None:
            self._file.empty()

    def start(self, ports: Mapping[int, Serial]) -> None:
        """Begin to read input for the machine's `ports`."""
        self._ports = ports
        if self._input is not None:
            self._input.start()

    def close(self) -> None:
        """Read no more and close the console's file; may be called again."""
        if self._input is not None:
            self._input.stop()
        self._teardown.close()

    def _add_console(self, config: VmConfig, *, executes: bool) -> None:
        match config.serial.mode:
            case SerialMode.OFF:
                return
            case SerialMode.NULL:
                line = SerialLine(1, _drop, batch=_BATCH)
            case SerialMode.FILE:
                assert config.serial.file is not None  # noqa: S101  # by SerialConfig
                self._file = OutputFile("--serial", config.serial.file)
                self._teardown.callback(self._file.close)
                output = FdWriter(self._file.fileno(), self._file_failed)
                line = SerialLine(1, output, batch=_BATCH)
            case SerialMode.TTY if executes:
                line = SerialLine(1, self._io.console or FdWriter(self._io.stderr, _drop))
            case SerialMode.TTY:
                line = self._terminal()
        self.lines.append(line)

    def _terminal(self) -> SerialLine:
        io = self._io
        output = io.console or FdWriter(io.stdout, self._stdout_failed)
        if io.stdin is None:
            return SerialLine(1, output)
        self._input = ConsoleInput(
            self._loop,
            io.stdin,
            self._receive,
            escape=EscapeFilter() if io.interactive else None,
            on_leave=lambda: self._stop(VmExit(EndKind.STOPPED)),
        )
        return SerialLine(1, output, on_room=self._input.on_room)

    def _receive(self, data: bytes) -> int:
        return self._ports[1].receive(data)

    def _add_session(self) -> None:
        session = ExecSession(
            FdWriter(self._io.stdout, self._stdout_failed),
            FdWriter(self._io.stderr, _drop),
            self._command_ended,
        )
        self.session = session
        self.lines += [
            SerialLine(2, session.stdout, batch=_BATCH),
            SerialLine(3, session.stderr, batch=_BATCH),
            SerialLine(4, session.take_status, batch=_BATCH),
        ]

    def _command_ended(self) -> None:
        self._loop.call_later(_POWEROFF_GRACE_NS, lambda: self._stop(VmExit(EndKind.STOPPED)))

    def _stdout_failed(self, error: OSError) -> None:
        self._stop(VmExit.by_lost_stdout(error))

    def _file_failed(self, error: OSError) -> None:
        where = "" if self._file is None else f" to {self._file.path}"
        logger.error("serial output%s is lost from here on: %s", where, os_reason(error))


def _drop(_output: object) -> None:
    """Take output that nobody wants."""
