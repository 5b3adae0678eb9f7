"""The outer machine: QEMU emulating a processor with AMD-V, and its four serial ports.

The default guest speaks its exec protocol over them: console, the command's output, its errors,
its exit status. Here each ends in a file of a scratch folder.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QEMU = "qemu-system-x86_64"
# One processor. With two in threads of their own, QEMU 7.2 sometimes keeps a translation of code
# that the other processor was patching: the kernel meets the INT3 of a jump label for ever, and KVM
# patches jump labels with each machine that it makes. With two that take turns (thread=single) most
# boots of a guest hung: a timer interrupt entered it while it had interrupts disabled.
PROCESSORS = 1
# A tick that comes whatever happens. Once in a dozen boots of a guest, QEMU 7.2 lost an interrupt:
# the processor halted, able to take it, with it pending in the local APIC, until a key was pressed
# on the monitor, for the next interrupt delivers both. A timer set for one shot has no next one.
PERIODIC_TICK = "nohz=off highres=off"
_PORTS = ("console", "output", "errors", "status")
_POLL_S = 0.2


class MachineError(Exception):
    """The machine did not end as it should; the message is one sentence."""


@dataclass(frozen=True)
class Result:
    """What a machine that powered off has left: its ports, and how long it ran."""

    console: str
    errors: str
    status: str
    seconds: float


def qemu_command(kernel: Path, initramfs: Path, cmdline: str, folder: Path) -> list[str]:
    """The command line; QEMU writes what the serial ports send into files below `folder`."""
    command = [QEMU, "-accel", "tcg", "-cpu", "max,+svm", "-smp", str(PROCESSORS), "-m", "2048"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(kernel), "-initrd", str(initramfs)]
    command += ["-append", f"{cmdline} {PERIODIC_TICK}"]
    for port in _PORTS:
        command += ["-serial", f"file:{folder / port}"]
    return command


def run(
    kernel: Path,
    initramfs: Path,
    cmdline: str,
    folder: Path,
    *,
    show: Callable[[bytes], None],
    time_limit_s: float,
) -> Result:
    """Run the machine until it powers off.

    Args:
        kernel: a bzImage.
        initramfs: its root file system, with a command for the exec protocol.
        cmdline: the kernel command line.
        folder: an empty folder for the ports' files.
        show: receives the command's output as it comes.
        time_limit_s: seconds after which the machine is killed.

    Raises:
        MachineError: QEMU failed, or the time is up.
    """
    started = time.monotonic()
    output = folder / "output"
    output.touch()
    with (
        (folder / "qemu").open("wb") as complaints,
        subprocess.Popen(
            qemu_command(kernel, initramfs, cmdline, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        ) as qemu,
        output.open("rb") as stream,
    ):
        try:
            while qemu.poll() is None:
                if time.monotonic() - started > time_limit_s:
                    raise MachineError(_too_late(folder, time_limit_s))
                time.sleep(_POLL_S)
                show(stream.read())
            show(stream.read())
        finally:
            qemu.kill()
        complaint = (folder / "qemu").read_text(errors="replace").strip()
    if qemu.returncode != 0:
        raise MachineError(f"{QEMU} failed with exit code {qemu.returncode}: {complaint}")
    return Result(
        console=_text(folder / "console"),
        errors=_text(folder / "errors"),
        status=_text(folder / "status").strip(),
        seconds=time.monotonic() - started,
    )


def _too_late(folder: Path, time_limit_s: float) -> str:
    last = (_text(folder / "console").strip().splitlines() or ["nothing"])[-1]
    return f"the machine did not end within {time_limit_s:.0f} s; its console's last line: {last}"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
