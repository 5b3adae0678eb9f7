"""The package as a whole: examples, public names, import cost."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import vm_memory

README = Path(__file__).parent.parent / "README.md"


def test_readme_examples_are_true():
    """Every example of the README gives what it shows."""
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_package_docstring_examples_are_true():
    """The package's story runs."""
    result = doctest.testmod(vm_memory)
    assert result.attempted > 3
    assert result.failed == 0


def test_import_brings_no_heavy_module():
    """Nothing that takes long to import, which a monitor would pay for at each start."""
    code = (
        "import sys; before = set(sys.modules); import vm_memory; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "vm_memory._core" in imported
    heavy = {"typing", "dataclasses", "inspect", "re", "contextlib", "ctypes", "socket", "asyncio"}
    assert imported & heavy == set()
