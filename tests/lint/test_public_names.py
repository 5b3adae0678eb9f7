"""The public names of every package are frozen in tests/api: a change of them shows in review."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

API = Path(__file__).resolve().parents[1] / "api"


def public_names(init: Path) -> list[str]:
    """The names in a literal `__all__`, without importing anything."""
    for node in ast.parse(init.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))
    pytest.fail(f"{init} has no literal __all__")


@pytest.fixture
def names(folder):
    """The public names of one package; those of its module `testing` with that before them."""
    source = folder / "src" / folder.name
    testing = source / "testing" / "__init__.py"
    more = public_names(testing) if testing.exists() else []
    return public_names(source / "__init__.py") + [f"testing.{name}" for name in more]


def test_public_names_are_reviewed(folder, names, request):
    """`noxfile.py lint -- --regenerate` writes the present names, for the reviewer to see."""
    snapshot = API / f"{folder.name}.txt"
    if request.config.getoption("--regenerate"):
        snapshot.write_text("".join(f"{name}\n" for name in sorted(names)))
    assert sorted(names) == snapshot.read_text().split()


def test_public_names_are_public_and_unique(names):
    """Nothing with an underscore is exported, but `__version__`; nothing is exported twice."""
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []
    assert len(names) == len(set(names))
