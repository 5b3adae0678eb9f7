"""Run every test that uses KVM inside an emulated machine that has a real one.

usage: python tests/nested/run.py [--junitxml FILE] [PYTEST ARGUMENTS]

QEMU emulates a processor with AMD-V, so neither /dev/kvm nor root is needed. Inside, Debian's
kernel loads kvm-amd, and the Python that runs this program, brought along with the packages
installed in it and the checkout's tests, runs what uses KVM (`inside/nested_plugin.py` says what
that is), up to the stock kernel as the guest's guest. Give arguments to run less, for example
`-k rings`; then only what they select is asked for.

The exit code is 0 if every test that was expected has run and passed, or was skipped for a reason
that `inside/allowed_skips.txt` lists.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INSIDE = HERE / "inside"
sys.path[:0] = [str(ROOT), str(HERE)]

import image  # noqa: E402
import python_tree  # noqa: E402
import qemu  # noqa: E402
import report  # noqa: E402

from tools import host  # noqa: E402
from vmm_reference.guest_assets import GuestAssetsError, default_guest  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

TIME_LIMIT_S = 15 * 60
ARGUMENTS_FILE = "etc/nested/arguments"
# Emulated processors: what takes a second elsewhere takes a minute here.
OPTIONS = ("-v", "--durations=8", "-p", "no:cacheprovider", "-o", "timeout=240")
# What the tests of disks make and check file systems with, which Debian has outside of a user's
# PATH, and what the tests of the network take rights away with.
PROGRAMS = ("mkfs.ext4", "e2fsck", "dumpe2fs", "debugfs", "setpriv")
PROGRAM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
NOT_COLLECTED = ("tests/lint", "tests/wheels")


class RunError(Exception):
    """The run cannot be judged; the message is one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__.splitlines()[0])
    parser.add_argument("--junitxml", type=Path, metavar="FILE", help="where the record goes")
    options, selection = parser.parse_known_args(arguments)
    if options.junitxml is not None:
        options.junitxml.unlink(missing_ok=True)  # a killed run leaves no record of an older one
    try:
        host.require_program("qemu-system-x86_64", "qemu-system-x86")
        if os.geteuid() == 0:
            host.require_program("mkfs.ext4", "e2fsprogs")
        expected = collect(selection)
        with tempfile.TemporaryDirectory(prefix="py-vmm-nested-") as folder:
            result = run_machine(expected, Path(folder))
        record = record_from(result, options.junitxml)
    except (RunError, image.ImageError, qemu.MachineError) as error:
        return fail(str(error), options.junitxml)
    except (host.HostError, GuestAssetsError) as error:
        return fail(str(error), options.junitxml)
    if options.junitxml is not None:
        options.junitxml.write_text(record)
    return judge(record, expected, everything=not selection, seconds=result.seconds)


def collect(selection: Sequence[str]) -> list[str]:
    """Ask pytest, on this host, for the node IDs of the tests to run.

    Raises:
        RunError: it cannot import them all, or none is selected.
    """
    paths = (
        []
        if any((ROOT / word.split("::")[0]).exists() for word in selection)
        else ["packages", "tests"]
    )
    ignored = [f"--ignore={path}" for path in NOT_COLLECTED]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "nested_plugin",
        *ignored,
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *paths, *selection],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(INSIDE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    listing = done.stdout.partition("\n\n")[0].splitlines()
    found = [line for line in listing if "::" in line]
    if done.returncode != 0 or not found:
        sys.stderr.write(done.stdout + done.stderr)
        raise RunError("pytest cannot collect the tests; its output is above")
    return found


def run_machine(expected: Sequence[str], folder: Path) -> qemu.Result:
    """Build the machine, run it, and pass its output on as it comes."""
    started = time.monotonic()
    command = f"sh {INSIDE}/run.sh {ROOT} {sys.executable} /{ARGUMENTS_FILE}"
    guest = default_guest(exec_command=command, log=host.say)
    release = guest.version.split()[0]
    color = f"--color={'yes' if sys.stdout.isatty() else 'no'}"
    arguments = "".join(f"{line}\n" for line in (*OPTIONS, color, *expected))
    archive = image.build(
        guest,
        image.kernel_modules(release),
        python_tree.files() | checkout_files() | program_files(),
        {ARGUMENTS_FILE: arguments.encode()},
    )
    initramfs = folder / "initramfs"
    initramfs.write_bytes(archive)
    size, seconds = len(archive) / 1e6, time.monotonic() - started
    host.say(f"an emulated machine with AMD-V, {size:.0f} MB made in {seconds:.0f} s; it starts")
    return qemu.run(
        guest.kernel, initramfs, guest.cmdline, folder, show=show, time_limit_s=TIME_LIMIT_S
    )


def checkout_files() -> set[Path]:
    """The tests, and what of the checkout they read."""
    folders = (ROOT / "tests", *ROOT.glob("packages/*/tests"))
    files = {path for folder in folders for path in python_tree.tree(folder, left_out=())}
    single = ("conftest.py", "pyproject.toml", "docs/tutorial.md")
    return files | {ROOT / name for name in single} | set(ROOT.glob("packages/*/README.md"))


def program_files() -> set[Path]:
    """The programs that tests start, as far as this host has them, and their libraries."""
    found = {shutil.which(name, path=PROGRAM_PATH) for name in PROGRAMS}
    programs = {Path(path) for path in found if path is not None}
    return programs | python_tree.shared_libraries(programs) if programs else set()


def show(output: bytes) -> None:
    """Pass on what pytest prints in the machine."""
    sys.stdout.buffer.write(output.replace(b"\r\n", b"\n"))
    sys.stdout.buffer.flush()


def record_from(result: qemu.Result, keep: Path | None) -> str:
    """The JUnit record that the machine has left; its console is kept beside the file `keep`.

    Raises:
        RunError: it has left none.
    """
    if keep is not None:
        keep.with_suffix(".console").write_text(result.console)
    record = result.errors[max(0, result.errors.find("<?xml")) :]
    if record.startswith("<?xml") and record.rstrip().endswith("</testsuites>"):
        return record
    last = "\n".join((result.console + result.errors).splitlines()[-20:])
    sys.stderr.write(f"{last}\n")
    raise RunError(f"the machine left no record of its tests (exit status {result.status!r})")


def judge(record: str, expected: Sequence[str], *, everything: bool, seconds: float) -> int:
    """Say what is wrong, or that all is well; returns the exit code."""
    cases = report.read(record)
    allowed = report.patterns((INSIDE / "allowed_skips.txt").read_text())
    groups = report.GROUPS if everything else ()
    wrong = report.problems(cases, expected, allowed, groups)
    for problem in wrong:
        host.say(problem)
    host.say(f"on the real KVM of an emulated machine: {report.counts(cases)} in {seconds:.0f} s")
    return 1 if wrong else 0


def fail(problem: str, junit: Path | None) -> int:
    """Say why there is no result, and leave it in the record as well."""
    host.say(problem)
    if junit is not None:
        junit.write_text(report.record_of(problem))
    return 1


if __name__ == "__main__":
    sys.exit(main())
