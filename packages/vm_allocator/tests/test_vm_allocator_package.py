"""The package as a whole: examples, public names, import cost."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import vm_allocator

README = Path(__file__).parent.parent / "README.md"


def test_readme_examples_are_true():
    """Every example of the README gives what it shows."""
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_package_docstring_examples_are_true():
    """The package's story runs."""
    result = doctest.testmod(vm_allocator)
    assert result.attempted > 3
    assert result.failed == 0


def test_import_costs_less_than_30_ms():
    """CPU time of the import in a fresh interpreter, the best of five."""
    code = (
        "import time; t = time.process_time(); import vm_allocator; print(time.process_time() - t)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    assert min(times) < 0.030
