"""The tutorial's program is run as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"


@pytest.fixture
def program():
    """The one Python block of the tutorial."""
    (block,) = re.findall(r"^```python\n(.*?)^```", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)
    return block


def run(program):
    """Run a program in an interpreter of its own, as a reader would."""
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_tutorial_program_runs(program):
    """It prints what the page says that it prints, and nothing else."""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello from the guest\n", "")


def test_tutorial_keeps_its_promise(program):
    """It is a virtual machine in 40 lines."""
    assert len([line for line in program.splitlines() if line.strip()]) <= 40


@pytest.mark.kvm
def test_tutorial_program_runs_on_kvm(program):
    """The other import gives the same on /dev/kvm."""
    try:
        Path("/dev/kvm").open("r+b").close()
    except OSError as error:
        pytest.skip(f"/dev/kvm cannot be opened: {error.strerror}")
    on_kvm = program.replace("from soft_kvm import Kvm", "from kvm_ioctls import Kvm")
    assert run(on_kvm).stdout == "Hello from the guest\n"
