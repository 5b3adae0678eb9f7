"""The package as a whole: examples, public names, import cost."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import virtio_devices
from virtio_devices import testing

README = Path(__file__).parent.parent / "README.md"


def test_readme_examples_are_true():
    """Every example of the README gives what it shows."""
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_package_docstring_examples_are_true():
    """The package's story runs."""
    result = doctest.testmod(virtio_devices)
    assert result.attempted > 3
    assert result.failed == 0


def test_public_names_exist_once():
    """What is announced is there, in sorted order and without repetition."""
    for module in (virtio_devices, testing):
        assert all(hasattr(module, name) for name in module.__all__)
        assert len(set(module.__all__)) == len(module.__all__)


def test_every_error_is_exported():
    """A caller can name every error that it may have to catch."""
    errors = virtio_devices.errors
    own = {
        name
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, errors.VirtioError)
    }
    assert own <= set(virtio_devices.__all__)


def test_import_costs_less_than_30_ms(tmp_path):
    """CPU time of the import in a fresh interpreter with compiled modules, the best of five."""
    code = (
        "import time; t = time.process_time(); import virtio_devices;"
        " print(time.process_time() - t)"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
        for _ in range(6)
    ]
    assert min(times) < 0.030
