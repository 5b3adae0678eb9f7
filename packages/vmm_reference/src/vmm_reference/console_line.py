"""The virtio console, and what of the host is at its other end, as ``--console`` says.

The device reads and writes descriptors itself, on a thread of its own. What is typed goes through a
pipe: there our own keys are taken out of it, and a script may type as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from virtio_devices import Console, ConsolePort
from vmm_reference.config import SerialMode
from vmm_reference.console import ConsoleInput
from vmm_reference.errors import HostError, OptionError, UsageError, VmStateError
from vmm_reference.exit_codes import EndKind, VmExit
from vmm_reference.logs import NOTICE
from vmm_reference.os_reason import os_reason
from vmm_reference.output_file import OutputFile
from vmm_reference.pseudo_terminal import PseudoTerminal
from vmm_reference.terminal import EscapeFilter
from vmm_reference.typed_input import TypedInput
from vmm_reference.virtio.reports import Reports
from vmm_reference.virtio_config import ConsoleMode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmm_reference.config import VmConfig
    from vmm_reference.event_loop import EventLoop
    from vmm_reference.host_io import HostIo

logger = logging.getLogger(__name__)

_CHUNK = 4096
"""Bytes read at once. A pipe that is writable takes as many (PIPE_BUF, pipe(7))."""
_UINT16_MAX = 0xFFFF


def refuse_two_on_a_terminal(config: VmConfig, io: HostIo) -> None:
    """Refuse two consoles that would share the process's own stdin and stdout.

    Raises:
        OptionError: ``tty`` for both ``--serial`` and ``--console``.
    """
    both = config.serial.mode is SerialMode.TTY and config.console.mode is ConsoleMode.TTY
    if both and io.virtio_console is None:
        reason = (
            "the terminal is the serial port's already (--serial null leaves it to the console)"
        )
        raise OptionError("--console", str(config.console), reason)


class ConsoleLine:
    """A machine's virtio console with the host's side of it.

    Args:
        config: the machine, with a console.
        io: the host's descriptors.
        loop: where input is read.
        stop: ends the machine.

    Attributes:
        device: the console.
        path: of the pseudo terminal for ``--console pty``, else None.

    Raises:
        InputFileError: the file for ``--console file=`` cannot be used.
        HostError: the host has no pseudo terminal left, or what the console stands on is not open.
    """

    def __init__(
        self, config: VmConfig, io: HostIo, loop: EventLoop, stop: Callable[[VmExit], object]
    ) -> None:
        self._io = io
        self._loop = loop
        self._stop = stop
        self._teardown = contextlib.ExitStack()
        self._input: ConsoleInput | None = None
        self._typed: TypedInput | None = None
        self._terminal: PseudoTerminal | None = None
        self._file: OutputFile | None = None
        self._wanted_size = (0, 0)
        self.path: str | None = None
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            size = (io.size.columns, io.size.rows) if io.size is not None else (0, 0)
            self.device = self._device(self._port(config), size)
            self._teardown.callback(self.device.close)
            self._resized = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._teardown.callback(self._close_resized)
            on_failure.pop_all()

    def empty_file(self) -> None:
        """Empty the file for ``--console file=``, if there is one.

        Raises:
            InputFileError: the host does not permit it.
        """
        if self._file is not None:
            self._file.empty()

    def start(self) -> None:
        """Begin to read input and to look after a pseudo terminal."""
        self._loop.add_reader(self._resized, self._resize)
        if self._input is not None:
            self._input.start()
        if self._terminal is not None:
            self._terminal.start()
            logger.log(NOTICE, "the console is at %s", self.path)

    def type_in(self, data: bytes) -> int:
        """Type `data`; from any thread.

        Returns:
            How many bytes were taken: 64 KiB may wait for the guest.

        Raises:
            VmStateError: what is typed into this console comes from elsewhere, or nothing does.
        """
        if self._typed is None:
            raise VmStateError("nothing can be typed into this console")
        return self._typed.type_in(data)

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size now; from any thread, and from signal handlers.

        A handler may interrupt itself, so the device, which locks, is told by the loop.

        Raises:
            UsageError: no terminal has this size.
        """
        if not (0 <= columns <= _UINT16_MAX and 0 <= rows <= _UINT16_MAX):
            raise UsageError(f"no terminal has {columns} columns and {rows} rows")
        self._wanted_size = columns, rows
        if self._resized >= 0:
            os.eventfd_write(self._resized, 1)

    def close(self) -> None:
        """Read no more and close what was opened; may be called again."""
        if self._input is not None:
            self._input.stop()
        self._typed = None
        self._teardown.close()

    def _port(self, config: VmConfig) -> ConsolePort:
        match config.console.mode:
            case ConsoleMode.FILE:
                assert config.console.file is not None  # noqa: S101  # by ConsoleConfig
                return self._file_port(config.console.file)
            case ConsoleMode.PTY:
                return self._pty_port()
            case ConsoleMode.TTY:
                return self._tty_port(executes=config.payload.exec_command is not None)
            case _:
                return ConsolePort()

    @staticmethod
    def _device(port: ConsolePort, size: tuple[int, int]) -> Console:
        try:
            return Console(port, size=size)
        except OSError as error:
            reason = os_reason(error)
            raise HostError(f"cannot use the descriptors of the console: {reason}") from error

    def _file_port(self, path: Path) -> ConsolePort:
        self._file = OutputFile("--console", path)
        self._teardown.callback(self._file.close)
        return ConsolePort(
            self._file.fileno(),
            on_error=Reports(logger, f"output of the console to {path} is lost"),
        )

    def _pty_port(self) -> ConsolePort:
        try:
            self._terminal = PseudoTerminal(self._loop, lambda: self.device.open_port(0))
        except OSError as error:
            reason = os_reason(error)
            raise HostError(f"cannot make a pseudo terminal for --console pty: {reason}") from error
        self._teardown.callback(self._terminal.close)
        self.path = self._terminal.path
        master = self._terminal.fileno()
        return ConsolePort(master, master)  # what nobody is there to read is lost

    def _tty_port(self, *, executes: bool) -> ConsolePort:
        io = self._io
        typed = self._typed = TypedInput(self._loop)
        self._teardown.callback(typed.close)
        if io.virtio_console is not None:
            return ConsolePort(io.virtio_console, typed.source)
        if executes:  # stdout is the command's, and it has no input
            return ConsolePort(io.stderr, typed.source)
        if io.stdin is not None:
            self._input = ConsoleInput(
                self._loop,
                io.stdin,
                self._receive,
                escape=EscapeFilter() if io.interactive else None,
                on_leave=lambda: self._stop(VmExit(EndKind.STOPPED)),
                chunk=_CHUNK,
            )
        return ConsolePort(io.stdout, typed.source, on_error=self._stdout_failed)

    def _receive(self, data: bytes) -> int:
        assert self._typed is not None  # noqa: S101  # made before the input that calls this
        taken = self._typed.type_in(data)
        if taken < len(data):
            self._typed.when_room(self._has_room)
        return taken

    def _has_room(self) -> None:
        assert self._input is not None  # noqa: S101  # it has waited for this
        self._input.on_room()

    def _resize(self) -> None:
        os.eventfd_read(self._resized)
        self.device.resize(*self._wanted_size)

    def _close_resized(self) -> None:
        resized, self._resized = self._resized, -1
        self._loop.remove_reader(resized)
        os.close(resized)

    def _stdout_failed(self, error: OSError) -> None:
        self._stop(VmExit.by_lost_stdout(error))
