"""The command ``vmm-reference``: flags in, exit code out.

Every failure ends here as one sentence on stderr and the exit code of `vmm_reference.exit_codes`.
What runs the machine is imported only when there is one to run, so that ``--help`` and a misspelt
flag answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from vmm_reference.config import (
    CpusConfig,
    HypervisorChoice,
    MemoryConfig,
    PayloadConfig,
    SerialConfig,
    SerialMode,
    VmConfig,
)
from vmm_reference.errors import VmmError
from vmm_reference.exit_codes import ExitCode, VmExit
from vmm_reference.virtio_config import DiskConfig, RngConfig, VirtioTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import SupportsWrite

    from vmm_reference.logs import LogSetup

PROGRAM = "vmm-reference"

_PACKAGES = (
    "vmm-reference",
    "soft-kvm",
    "virtio-devices",
    "linux-loader",
    "kvm-ioctls",
    "vm-memory",
    "vm-allocator",
)

_DESCRIPTION = """\
Run a Linux virtual machine. Without --kernel it is a stock Debian kernel with a small file system
around busybox, fetched once. On a terminal you get a shell in it; Ctrl-A x leaves at once, Ctrl-A
Ctrl-A types one Ctrl-A.
"""

_EPILOG = """\
exit codes:
  0        the guest powered off, or you left with Ctrl-A x
  CMD's    with --exec: the command's own
  1        an error of the host or of the VMM
  2        usage: a bad flag, value or input file
  32       the guest reset (reboot)
  33       the guest's processor shut down (triple fault)
  34       the guest's kernel panicked
  35       the hypervisor gave up
  128 + N  ended by signal N

examples:
  vmm-reference
  vmm-reference --exec 'uname -a; free -m'
  vmm-reference --kernel bzImage --initramfs initramfs.gz --cmdline 'console=ttyS0 panic=-1'
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, and whose answers are written or fail."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end."""
        _say(f"{message}; see {PROGRAM} --help")
        self.exit(ExitCode.USAGE)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; a failure is not passed over."""
        if file is None:
            _put(sys.stdout, self.format_help())
        else:
            super().print_help(file)


class _Versions(argparse.Action):
    """Prints the version of every package of the project."""

    def __call__(self, parser: argparse.ArgumentParser, *_unused: object) -> None:
        """Print and end."""
        from importlib import metadata  # noqa: PLC0415  # nothing else needs it

        lines = []
        for name in _PACKAGES:
            with contextlib.suppress(metadata.PackageNotFoundError):
                lines.append(f"{name} {metadata.version(name)}\n")
        _put(sys.stdout, "".join(lines))
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser for the command line."""
    parser = _Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    guest = parser.add_argument_group("what to run")
    guest.add_argument(
        "--kernel",
        metavar="PATH",
        type=Path,
        help="a bzImage or an ELF vmlinux in place of the default guest's (--kernel /boot/vmlinuz)",
    )
    guest.add_argument(
        "--initramfs",
        metavar="PATH",
        type=Path,
        help="its initial file system (--initramfs /boot/initrd.img)",
    )
    guest.add_argument(
        "--cmdline",
        metavar="TEXT",
        help="the kernel command line, in place of the one that we would make: console=ttyS0 if "
        "there is a serial port, panic=-1, and quiet if nobody would see it "
        "(--cmdline 'console=ttyS0 panic=-1 debug')",
    )
    guest.add_argument(
        "--exec",
        metavar="CMD",
        dest="exec_command",
        help="run CMD in the default guest: its output is ours, and so is its exit code; "
        "implies --serial null (--exec 'uname -a')",
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument(
        "--memory",
        metavar="size=SIZE",
        default="size=512M",
        help="its memory, with suffix K, M, G or T (--memory size=2G); default size=512M",
    )
    machine.add_argument(
        "--cpus",
        metavar="boot=N",
        default="boot=1",
        help="its processors; the emulator runs one (--cpus boot=1); default boot=1",
    )
    machine.add_argument(
        "--serial",
        metavar="tty|off|null|file=PATH",
        help="where its first serial port goes: to this terminal, nowhere because there is none, "
        "nowhere, or to a file (--serial file=console.log); default tty",
    )
    _add_virtio_arguments(machine)
    machine.add_argument(
        "--hypervisor",
        metavar="auto|kvm|soft",
        default="auto",
        help="who runs it: /dev/kvm, our emulator, or KVM if a probe shows that it runs stock "
        "kernels and the emulator if not (--hypervisor soft); default auto",
    )
    about = parser.add_argument_group("about this program")
    about.add_argument(
        "-v",
        action="count",
        default=0,
        dest="verbosity",
        help="say more; -vv says everything, tracebacks of errors included (-v)",
    )
    about.add_argument(
        "--log-file",
        metavar="PATH",
        type=Path,
        help="write the log there instead of to stderr (--log-file vmm.log)",
    )
    about.add_argument(
        "--version", action=_Versions, nargs=0, help="print the versions of all our packages"
    )
    return parser


def _add_virtio_arguments(machine: argparse._ArgumentGroup) -> None:
    machine.add_argument(
        "--disk",
        metavar="path=PATH",
        action="extend",
        nargs="+",
        default=[],
        help="a raw image file or block device as a disk, with readonly=on, direct=on (O_DIRECT), "
        "serial=TEXT, num_queues=N, queue_size=N; give it again for more disks "
        "(--disk path=disk.img,readonly=on)",
    )
    machine.add_argument(
        "--rng",
        metavar="src=PATH",
        help="random numbers for the guest, out of a file of this machine (--rng src=/dev/urandom)",
    )
    machine.add_argument(
        "--virtio-transport",
        metavar="pci|mmio",
        default="pci",
        help="how the guest reaches disks and the like (--virtio-transport mmio); default pci",
    )


def config_from_args(args: argparse.Namespace) -> VmConfig:
    """Turn parsed flags into a machine.

    Raises:
        OptionError: a flag's value is not one that it takes.
    """
    serial = args.serial
    if serial is None:
        serial = "tty" if args.exec_command is None else "null"
    return VmConfig(
        payload=PayloadConfig(
            kernel=args.kernel,
            initramfs=args.initramfs,
            cmdline=args.cmdline,
            exec_command=args.exec_command,
        ),
        memory=MemoryConfig.parse(args.memory),
        cpus=CpusConfig.parse(args.cpus),
        serial=SerialConfig.parse(serial),
        hypervisor=HypervisorChoice.parse(args.hypervisor),
        disks=tuple(DiskConfig.parse(text) for text in args.disk),
        rng=None if args.rng is None else RngConfig.parse(args.rng),
        virtio_transport=VirtioTransport.parse(args.virtio_transport),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments `argv` (the process's own if None).

    Returns:
        The exit code.
    """
    _fill_closed_descriptors()
    args = _parse(argv)
    try:
        return _main(args)
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
        _say(f"cannot write to standard output: {(error.strerror or str(error)).lower()}")
        sys.exit(ExitCode.HOST_ERROR)


def _fill_closed_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed.

    The next file to be opened would take that number, and get what the guest prints.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number


def _main(args: argparse.Namespace) -> int:
    from vmm_reference.logs import LogSetup  # noqa: PLC0415  # see the module's docstring

    config = config_from_args(args)
    logs = LogSetup(args.verbosity, args.log_file, on_failure=_say)
    try:
        return _run(config, logs)
    finally:
        logs.close()
        _flush_stderr()


def _run(config: VmConfig, logs: LogSetup) -> int:
    from vmm_reference.host_io import HostIo  # noqa: PLC0415  # see the module's docstring
    from vmm_reference.signals import EndedBySignal, SignalHandlers  # noqa: PLC0415
    from vmm_reference.vm import Vm  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        terminal: Any = None
        console = config.serial.mode is SerialMode.TTY and config.payload.exec_command is None
        if console and os.isatty(0):
            from vmm_reference.terminal import Terminal  # noqa: PLC0415

            terminal = Terminal(0)
            stack.callback(logs.on_raw_terminal, False)
            stack.callback(terminal.close)
        io = HostIo(
            interactive=terminal is not None, size=terminal.size if terminal is not None else None
        )
        vm = stack.enter_context(Vm(config, io=io))
        handlers = stack.enter_context(
            SignalHandlers(lambda number: vm.stop(VmExit.by_signal(number)), terminal)
        )
        try:
            with handlers.raising():  # the first run fetches a guest, which may take long
                vm.build()
        except EndedBySignal as ended:
            return VmExit.by_signal(ended.number).code
        if terminal is not None:
            terminal.make_raw()
            logs.on_raw_terminal(True)
        end = vm.run()
        code = vm.exit_code
        complaint = vm.complaint
    if complaint:
        _say(complaint)
    if end.error is not None:
        import logging  # noqa: PLC0415

        logging.getLogger(__name__).debug("the error behind it", exc_info=end.error)
    return code


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        _put(sys.stderr, f"{PROGRAM}: {sentence}\n")


def _put(stream: TextIO | None, text: str) -> None:
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


def _flush_stderr() -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            _put(sys.stderr, "")


def _drop(stream: TextIO) -> None:
    """Let what `stream` still holds go to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _fail(args: argparse.Namespace, error: BaseException, code: int, what: str = "") -> int:
    if args.verbosity > 1:
        import traceback  # noqa: PLC0415  # -vv asked for it

        with contextlib.suppress(OSError):
            traceback.print_exception(error)
    _say(what or " ".join(str(error).split()) or type(error).__name__)
    return int(code)
