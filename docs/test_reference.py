"""The built reference is complete."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

HERE = Path(__file__).resolve().parent
PACKAGES = sorted(path.parent.name for path in (HERE.parent / "packages").glob("*/pyproject.toml"))
PUBLIC = [*PACKAGES, "virtio_devices.testing"]


@pytest.fixture(scope="module")
def documented():
    """Every Python name in the inventory of the built site."""
    inventory = InventoryFile.loads((HERE / "_build/html/objects.inv").read_bytes(), uri="")
    kinds = [kind for kind in inventory.data if kind.startswith("py:")]
    return {name for kind in kinds for name in inventory.data[kind]}


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_documented(package, documented):
    """A name in a package's `__all__` has an entry in the reference."""
    names = {name for name in importlib.import_module(package).__all__ if name != "__version__"}
    assert {name for name in names if f"{package}.{name}" not in documented} == set()


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_a_docstring(package):
    """A class or function that is public says what it means."""
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    own = {name: thing for name, thing in public.items() if callable(thing)}
    assert [name for name, thing in own.items() if not thing.__doc__] == []
