"""Boot: from the start of the process to the end of a short guest script, beside QEMU's emulator.

Both sides run the same stock kernel, initramfs and script; nothing of the guest differs but the
machine around it. QEMU is Debian's, `-accel tcg -M q35`, one CPU, the same memory. The guest says
in /proc/uptime when its kernel handed over to the script, which splits the time; what remains of
our own side before the kernel runs is measured by a guest that powers off at its first instruction.
"""

from __future__ import annotations

import argparse
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
    from collections.abc import Callable

SCRIPT = "cat /proc/uptime; uname -a; grep MemTotal /proc/meminfo; ls /proc > /dev/null"
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
    with tempfile.TemporaryDirectory() as folder:
        candidates = [Candidate("soft_kvm", run_ours), Candidate("qemu-tcg", qemu(Path(folder)))]
        results = interleave(candidates, rounds=arguments.rounds)
    ratio = results.ratio("total", "soft_kvm", "qemu-tcg")
    return report("boot", results, [Goal("boot", ratio, TARGET_RATIO)])


def run_ours() -> Measures:
    """One boot of the default guest on soft_kvm."""
    vmm = Path(sys.executable).parent / "vmm-reference"
    command = [str(vmm), "--hypervisor", "soft", "--memory", f"size={MEMORY}", "--exec", SCRIPT]
    start = time.monotonic()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
    )
    total = time.monotonic() - start
    if done.returncode:
        sys.exit(f"bench: vmm-reference exited with {done.returncode}: {done.stderr.decode()}")
    return breakdown(total, done.stdout)


def qemu(folder: Path) -> Callable[[], Measures]:
    """A function that boots the same kernel, initramfs and script under QEMU's emulator."""
    guest = guest_assets.default_guest()
    initramfs, output, status = folder / "initramfs", folder / "output", folder / "status"
    initramfs.write_bytes(guest.initramfs.read_bytes() + guest_assets.exec_overlay(SCRIPT))
    command = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-m", MEMORY, "-smp", "1"]
    command += ["-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(guest.kernel), "-initrd", str(initramfs), "-append", guest.cmdline]
    for port in ("null", f"file:{output}", "null", f"file:{status}"):
        command += ["-serial", port]

    def run() -> Measures:
        output.unlink(missing_ok=True)
        status.unlink(missing_ok=True)
        start = time.monotonic()
        subprocess.run(command, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=True)
        total = time.monotonic() - start
        if status.read_text().strip() != "0":
            sys.exit(f"bench: the guest's script failed under QEMU: {status.read_text()!r}")
        return breakdown(total, output.read_bytes())

    return run


def breakdown(total: float, output: bytes) -> Measures:
    """Split the total at the moment when the guest's script began, told by the guest's clock."""
    uptime = float(output.split()[0])
    return {"total": total, "guest uptime": uptime, "around": total - uptime}


if __name__ == "__main__":
    sys.exit(main())
