"""The command ``vmm-reference``: flags in, exit code out.

Every failure ends here as one sentence on stderr and the exit code of `vmm_reference.exit_codes`.
What runs the machine is imported only when there is one to run, so that ``--help`` and a misspelt
flag answer at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from vmm_reference.errors import VmmError
from vmm_reference.exit_codes import ExitCode, VmExit
from vmm_reference.flags import config_from_args, make_parser
from vmm_reference.os_reason import os_reason
from vmm_reference.streams import PROGRAM, fill_closed_descriptors, flush_stderr, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from vmm_reference.config import VmConfig
    from vmm_reference.logs import LogSetup
    from vmm_reference.terminal import Terminal
    from vmm_reference.vm import Vm


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv` (the process's own if None).

    Returns:
        The exit code.
    """
    closed = fill_closed_descriptors()
    args = _parse(argv)
    try:
        return _main(args, closed)
    except VmmError as error:
        return _fail(args, error, error.exit_code)
    except KeyboardInterrupt:
        return 128 + 2
    except BrokenPipeError:
        return 128 + 13
    except OSError as error:
        return _fail(args, error, ExitCode.HOST_ERROR)
    except Exception as error:  # noqa: BLE001  # the last resort: a sentence, not a traceback
        what = f"this is a bug in {PROGRAM}: {type(error).__name__}: {error}"
        return _fail(args, error, ExitCode.HOST_ERROR, what)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    try:
        return make_parser().parse_args(argv)
    except BrokenPipeError:
        sys.exit(128 + 13)
    except OSError as error:
        say(f"cannot write to standard output: {os_reason(error)}")
        sys.exit(ExitCode.HOST_ERROR)


def _main(args: argparse.Namespace, closed: frozenset[int]) -> int:
    from vmm_reference.logs import LogSetup  # noqa: PLC0415  # see the module's docstring

    config = config_from_args(args)
    logs = LogSetup(args.verbosity, args.log_file, on_failure=say)
    try:
        return _run(config, logs, closed)
    finally:
        logs.close()
        flush_stderr()


def _run(config: VmConfig, logs: LogSetup, closed: frozenset[int]) -> int:
    from vmm_reference.host_io import HostIo  # noqa: PLC0415  # see the module's docstring
    from vmm_reference.signals import EndedBySignal, SignalHandlers  # noqa: PLC0415
    from vmm_reference.vm import Vm  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        terminal: Any = None
        if _reads_stdin(config) and os.isatty(0):
            from vmm_reference.terminal import Terminal  # noqa: PLC0415

            terminal = Terminal(0)
            stack.callback(logs.on_raw_terminal, False)
            stack.callback(terminal.close)
        io = HostIo(
            stdout=_stdout(config, closed),
            interactive=terminal is not None,
            size=terminal.size if terminal is not None else None,
        )
        vm = stack.enter_context(Vm(config, io=io))
        handlers = stack.enter_context(
            SignalHandlers(
                lambda number: vm.stop(VmExit.by_signal(number)),
                terminal,
                on_resize=lambda: _pass_on_size(terminal, vm),
            )
        )
        try:
            with handlers.raising():  # the first run fetches a guest, which may take long
                vm.build()
        except EndedBySignal as ended:
            return VmExit.by_signal(ended.number).code
        if terminal is not None:
            terminal.make_raw()
            logs.on_raw_terminal(True)
            _pass_on_size(terminal, vm)  # it may have changed since the machine was described
        end = vm.run()
        code = vm.exit_code
        complaint = vm.complaint
    if complaint:
        say(complaint)
    if end.error is not None:
        import logging  # noqa: PLC0415

        logging.getLogger(__name__).debug("the error behind it", exc_info=end.error)
    return code


def _reads_stdin(config: VmConfig) -> bool:
    """Whether what is typed here is the guest's."""
    consoles = {config.serial.mode.value, config.console.mode.value}
    return "tty" in consoles and config.payload.exec_command is None


def _stdout(config: VmConfig, closed: frozenset[int]) -> int:
    """Where output goes: a console's may go nowhere, but a command's must not be lost silently."""
    return -1 if 1 in closed and config.payload.exec_command is not None else 1


def _pass_on_size(terminal: Terminal, vm: Vm) -> None:
    size = terminal.size
    if size is not None:
        vm.resize_console(size.columns, size.rows)


def _fail(args: argparse.Namespace, error: BaseException, code: int, what: str = "") -> int:
    if args.verbosity > 1:
        import traceback  # noqa: PLC0415  # -vv asked for it

        with contextlib.suppress(OSError):
            traceback.print_exception(error)
    say(what or " ".join(str(error).split()) or type(error).__name__)
    return int(code)
