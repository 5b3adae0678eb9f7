"""Boot: from the start of the process to the end of a short guest script, beside QEMU's emulator.

Both sides run the same stock kernel, command line, initramfs and script, one CPU and the same
memory; QEMU is Debian's, `-accel tcg -M q35`, and gets the kernel as shipped. The clock is the
host's: the guest's own may drift.

Where the time goes is told by shorter runs of the same program: `vmm alone` is a guest that powers
off at its first instruction, `kernel alone` is the stock kernel whose first process is
`poweroff -f`.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Candidate, Goal, Measures, interleave, report
from tools import host
from vmm_reference import guest_assets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCRIPT = "uname -a; grep MemTotal /proc/meminfo; cat /proc/uptime; ls /proc > /dev/null"
POWER_OFF_FIRST = "rdinit=/bin/busybox -- poweroff -f"
POWER_OFF_AT_ONCE = bytes.fromhex("ba00060000 b034 ee f4")  # mov edx, 0x600; mov al, 0x34; out; hlt
MEMORY = "512M"
TARGET_RATIO = 1.5
TIMEOUT = 120


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- boot", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved pairs (default: 5)")
    arguments = parser.parse_args()
    try:
        host.require_program("qemu-system-x86_64", "qemu-system-x86")
    except host.HostError as error:
        sys.exit(f"bench: {error}")
    guest = guest_assets.default_guest()
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder, "power-off.elf")
        kernel.write_bytes(smallest_elf(POWER_OFF_AT_ONCE))
        overlaid = Path(folder, "initramfs")
        overlaid.write_bytes(guest.initramfs.read_bytes() + guest_assets.exec_overlay(SCRIPT))
        cmdline = f"{guest.cmdline} quiet"  # the same for both, whatever ours would choose
        alone = f"{cmdline} {POWER_OFF_FIRST}"
        candidates = [
            Candidate("soft_kvm", timed(ours("--cmdline", cmdline, "--exec", SCRIPT))),
            Candidate("qemu-tcg", timed(qemu(guest.kernel, overlaid, cmdline))),
        ]
        parts = [
            Candidate("vmm alone", timed(ours("--kernel", str(kernel), "--serial", "null"))),
            Candidate("kernel alone", timed(ours("--cmdline", alone, "--serial", "null"))),
            Candidate("qemu kernel", timed(qemu(guest.kernel, guest.initramfs, alone))),
        ]
        pairs = interleave(candidates, rounds=arguments.rounds)
        breakdown = interleave(parts, rounds=3)
    ratio = pairs.ratio("total", "soft_kvm", "qemu-tcg")
    return report("boot", pairs.with_more(breakdown), [Goal("boot", ratio, TARGET_RATIO)])


def ours(*arguments: str) -> list[str]:
    """The command that runs `vmm-reference` of this environment on soft_kvm."""
    vmm = str(Path(sys.executable).parent / "vmm-reference")
    return [vmm, "--hypervisor", "soft", "--memory", f"size={MEMORY}", *arguments]


def qemu(kernel: Path, initramfs: Path, cmdline: str) -> list[str]:
    """The command that runs QEMU's emulator; the script's output is on standard output."""
    command = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-m", MEMORY, "-smp", "1"]
    command += ["-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", cmdline]
    command += ["-chardev", "stdio,id=output,signal=off"]
    for port in ("null", "chardev:output", "null", "null"):
        command += ["-serial", port]
    return command


def timed(command: Sequence[str]) -> Callable[[], Measures]:
    """A function that runs a command and measures it: until its first output, and until its end."""

    def run() -> Measures:
        start = time.monotonic()
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            measures: Measures = {}
            assert process.stdout is not None
            if process.stdout.read(1):
                measures["to first output"] = time.monotonic() - start
            _, errors = process.communicate(timeout=TIMEOUT)
            measures["total"] = time.monotonic() - start
        if process.returncode:
            sys.exit(f"bench: {command[0]} exited with {process.returncode}: {errors.decode()}")
        return measures

    return run


def smallest_elf(code: bytes) -> bytes:
    """Machine code as a 64-bit ELF kernel with one segment at 16 MiB."""
    entry, offset = 0x100_0000, 64 + 56
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, offset, entry, entry, len(code), 0x1000, 0x1000)
    return header + segment + code


if __name__ == "__main__":
    sys.exit(main())
