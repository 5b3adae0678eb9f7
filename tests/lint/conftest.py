"""Fixtures of the checks that read sources and metadata and install nothing of ours."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser):
    parser.addoption(
        "--regenerate", action="store_true", help="rewrite tests/api/*.txt from the present sources"
    )


def package_folders() -> list[Path]:
    return sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))


def pytest_generate_tests(metafunc):
    """A test that takes `folder` runs once per package."""
    if "folder" in metafunc.fixturenames:
        folders = package_folders()
        metafunc.parametrize("folder", folders, ids=[folder.name for folder in folders])


@pytest.fixture
def project(folder):
    """The [project] table of one package."""
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def projects():
    """The [project] tables of all packages by import name."""
    return {
        folder.name: tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in package_folders()
    }
