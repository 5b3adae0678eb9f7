"""The built distributions: what they contain, and that they work far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIST = Path(os.environ.get("PY_VMM_DIST", ROOT / "dist"))
NAMES = sorted(path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml"))


@pytest.fixture(params=NAMES)
def name(request):
    """The import name of one package."""
    return request.param


@pytest.fixture
def version(name):
    """The version in its metadata."""
    text = (ROOT / "packages" / name / "pyproject.toml").read_text()
    return tomllib.loads(text)["project"]["version"]


@pytest.fixture
def wheel(name, version):
    """The one wheel of the package."""
    (path,) = DIST.glob(f"{name}-{version}-*.whl")
    return path


def test_wheel_serves_every_python(wheel, name):
    """A wheel is pure, or carries C for the stable ABI of 3.11 and everything later."""
    has_c = (ROOT / "packages" / name / "setup.py").exists()
    assert ("-cp311-abi3-linux_" in wheel.name) == has_c
    assert wheel.name.endswith("-py3-none-any.whl") == (not has_c)


def test_wheel_contains_the_package_and_nothing_else(wheel, name):
    """Hints and licence data are there; tests and C sources are not."""
    files = zipfile.ZipFile(wheel).namelist()
    tops = {file.split("/")[0].removesuffix(".dist-info").split("-")[0] for file in files}
    assert f"{name}/py.typed" in files
    assert f"{name}/__init__.py" in files
    assert tops == {name}
    assert [file for file in files if "test_" in file or "__pycache__" in file] == []


def test_sdist_contains_the_sources(name, version):
    """An sdist has what its wheel was built from, the README and the changelog included."""
    with tarfile.open(DIST / f"{name}-{version}.tar.gz") as archive:
        files = {member.partition("/")[2] for member in archive.getnames()}
    assert {"pyproject.toml", "README.md", f"src/{name}/__init__.py"} <= files


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory):
    """An interpreter of a new environment outside the checkout, with nothing but our wheels."""
    folder = tmp_path_factory.mktemp("clean")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wheels = sorted(str(path) for path in DIST.glob("*.whl"))
    constraints = str(ROOT / "constraints.txt")
    subprocess.run([python, *install, "-c", constraints, *wheels], check=True, cwd="/")
    return python


def test_versions_come_from_the_metadata(clean_python):
    """Every package imports from the clean environment and knows its version."""
    program = "\n".join(
        f"import {name}, importlib.metadata\n"
        f"assert importlib.metadata.version('{name}'); print({name}.__file__)"
        for name in NAMES
    )
    command = [clean_python, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    assert all(line.startswith(str(clean_python.parents[1])) for line in done.stdout.splitlines())


@pytest.mark.boot
def test_clean_environment_boots(clean_python):
    """`vmm-reference --exec` works from the wheels alone, in any folder."""
    command = [clean_python.parent / "vmm-reference", "--exec", "echo from the wheels; exit 3"]
    done = subprocess.run(command, capture_output=True, cwd="/", timeout=110, check=False)
    assert (done.returncode, done.stdout) == (3, b"from the wheels\n"), done.stderr.decode()
