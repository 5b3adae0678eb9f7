"""The package as a whole: its public names, its import, its README."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import linux_loader
from linux_loader import errors

PUBLIC = """
BootParamsError BootProtocol Cmdline CmdlineError CmdlineTooLong CorruptPayload E820Entry E820Type
EmptyImage ForeignImage ImageError ImageFormat InitramfsTooLarge InvalidCmdline KernelTooLarge
KernelTooLow LoadFlags LoadedKernel LoaderError MalformedImage MissingDecompressor OutsideMemory
PlacementError SetupHeader TruncatedImage UnpackError UnpackedTooLarge UnreadableImage
UnsupportedImage XLoadFlags bzimage elf extract_vmlinux identify load_cmdline load_initramfs
load_kernel write_zero_page
"""


def test_public_names_are_frozen():
    """A name comes or goes only on purpose."""
    assert sorted(linux_loader.__all__) == PUBLIC.split()
    assert all(hasattr(linux_loader, name) for name in linux_loader.__all__)


def test_every_error_is_public_and_a_loader_error():
    """The tree has one root, and the face shows all of it."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(error, errors.LoaderError) for error in classes)
    assert {error.__name__ for error in classes} <= set(linux_loader.__all__)
    assert all(error.__name__ in (errors.__doc__ or "") for error in classes)


def test_importing_does_not_import_what_only_some_need():
    """The ELF library, decompressors and `typing` are not paid for by an import."""
    code = "import sys, linux_loader; print([m for m in sys.modules if m in "
    code += "('elftools', 'lz4', 'backports.zstd', 'lzma', 'bz2', 'typing', 'ctypes')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_readme_runs():
    """The README's example is a doctest."""
    readme = Path(__file__).parent.parent / "README.md"
    failures, tests = doctest.testfile(str(readme), module_relative=False)
    assert tests > 0
    assert failures == 0


@pytest.mark.parametrize("name", ["cmdline", "image", "elf"])
def test_docstring_examples_run(name):
    """Examples in docstrings are doctests."""
    module = sys.modules[f"linux_loader.{name}"]
    assert doctest.testmod(module).failed == 0


def test_modules_are_short():
    """One idea a module."""
    folder = Path(linux_loader.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text()
        assert text.count("\n") < 400, path
        assert ast.get_docstring(ast.parse(text)), path
