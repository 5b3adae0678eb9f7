"""The flags of ``vmm-reference``, and the machine that they describe.

What a value may be is known to the records of `vmm_reference.config`; here is which flags there are
and what their help says.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vmm_reference.config import (
    CpusConfig,
    HypervisorChoice,
    MemoryConfig,
    PayloadConfig,
    SerialConfig,
    VmConfig,
)
from vmm_reference.exit_codes import ExitCode
from vmm_reference.streams import PROGRAM, put, say
from vmm_reference.virtio_config import (
    ConsoleConfig,
    DiskConfig,
    NetConfig,
    RngConfig,
    VirtioTransport,
)

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

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
  1        an error of the host or of the VMM; with --exec also: the guest
           powered off before CMD had ended
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
        say(f"{message}; see {PROGRAM} --help")
        self.exit(ExitCode.USAGE)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; a failure is not passed over."""
        if file is None:
            put(sys.stdout, self.format_help())
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
        put(sys.stdout, "".join(lines))
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
    _add_guest(parser.add_argument_group("what to run"))
    machine = parser.add_argument_group("the machine")
    _add_machine(machine)
    _add_virtio(machine)
    _add_hypervisor(machine)
    _add_about(parser.add_argument_group("about this program"))
    return parser


def config_from_args(args: argparse.Namespace) -> VmConfig:
    """Turn parsed flags into a machine.

    Raises:
        OptionError: a flag's value is not one that it takes.
    """
    serial = args.serial
    if serial is None:  # the terminal is the console's, or the command's
        serial = "tty" if args.exec_command is None and args.console != "tty" else "null"
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
        console=ConsoleConfig.parse(args.console),
        hypervisor=HypervisorChoice.parse(args.hypervisor),
        disks=tuple(DiskConfig.parse(text) for text in args.disk),
        nets=tuple(NetConfig.parse(text) for text in args.net),
        rng=None if args.rng is None else RngConfig.parse(args.rng),
        virtio_transport=VirtioTransport.parse(args.virtio_transport),
    )


def _add_guest(guest: argparse._ArgumentGroup) -> None:
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
        "there is a serial port, console=hvc0 if there is a console, panic=-1, and quiet if nobody "
        "would see it "
        "(--cmdline 'console=ttyS0 panic=-1 debug')",
    )
    guest.add_argument(
        "--exec",
        metavar="CMD",
        dest="exec_command",
        help="run CMD in the default guest: its output is ours, and so is its exit code; "
        "implies --serial null (--exec 'uname -a')",
    )


def _add_machine(machine: argparse._ArgumentGroup) -> None:
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
        "nowhere, or to a file (--serial file=console.log); default tty, and null with --exec or "
        "--console tty",
    )
    machine.add_argument(
        "--console",
        metavar="off|null|tty|pty|file=PATH",
        default="off",
        help="where its virtio console, hvc0, goes: there is none, nowhere, to this terminal, to a "
        "pseudo terminal (a line on stderr says which), or to a file (--console tty); default off",
    )


def _add_virtio(machine: argparse._ArgumentGroup) -> None:
    machine.add_argument(
        "--disk",
        metavar="path=PATH",
        action="extend",
        nargs="+",
        default=[],
        help="a raw image file or block device as a disk, with readonly=on, direct=on (O_DIRECT), "
        "serial=TEXT, num_queues=N, queue_size=N, image_type=raw; give it again for more disks "
        "(--disk path=disk.img,readonly=on)",
    )
    machine.add_argument(
        "--net",
        metavar="tap=NAME",
        action="extend",
        nargs="+",
        default=[],
        help="a network card on a TAP interface, found or made, with mac=, mtu=, num_queues=N, "
        "queue_size=N, offload_tso=off, offload_ufo=off, offload_csum=off; with ip=, mask= and "
        "host_mac= for the interface, or fd=N in place of its name; give it again for more cards "
        "(--net tap=vmtap0,ip=192.168.249.1,mask=255.255.255.0)",
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
        help="how the guest reaches its virtio devices (--virtio-transport mmio); default pci",
    )


def _add_hypervisor(machine: argparse._ArgumentGroup) -> None:
    machine.add_argument(
        "--hypervisor",
        metavar="auto|kvm|soft",
        default="auto",
        help="who runs it: /dev/kvm, our emulator, or KVM if a probe shows that it runs stock "
        "kernels and the emulator if not (--hypervisor soft); default auto",
    )


def _add_about(about: argparse._ArgumentGroup) -> None:
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
