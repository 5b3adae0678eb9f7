"""The private environments of a checkout, all under `.py-vmm/<key>/`.

The key is a hash of the constraints, the interpreter and the checkout's own path: changed pins,
another Python or a moved checkout start afresh instead of failing in odd ways. Standard library
only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools import host

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HOME = ROOT / ".py-vmm"
_QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")
TOOL_REQUIREMENTS = ("nox", "build", "setuptools", "wheel", "cffi")


def key() -> str:
    """What must be equal for an environment to be used again."""
    python = f"{sys.implementation.cache_tag} {platform.python_version()} {sys.base_prefix} {ROOT}"
    return hashlib.sha256(CONSTRAINTS.read_bytes() + os.fsencode(python)).hexdigest()[:12]


def base() -> Path:
    """The folder of this key's environments, created if need be."""
    folder = HOME / key()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise host.HostError(
            f"cannot write {folder} ({error.strerror}): use a checkout that belongs to you"
        ) from error
    if not os.access(folder, os.W_OK):
        raise host.HostError(f"cannot write {folder}: use a checkout that belongs to you")
    return folder


@contextmanager
def lock() -> Iterator[None]:
    """Let one process at a time build environments and wheels in this checkout."""
    with (base() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def tool_python() -> Path:
    """The interpreter of the environment that holds nox and the build tools, made on first use."""
    folder = base() / "tool"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists():
        return python
    with lock():
        if not ready.exists():
            host.require(host.python_lacks() + host.compiler_lacks())
            host.say("setting up a private environment with nox (once)")
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            install = [str(python), "-m", "pip", "install", *_QUIET, "--no-compile"]
            _run([*install, "-c", str(CONSTRAINTS), *TOOL_REQUIREMENTS])
            ready.touch()
    return python


def pip_install(python: Path, *arguments: str) -> list[str]:
    """The pip command that installs `arguments` for `python` at our pinned versions."""
    return [*_pip(python), "install", *_QUIET, "-c", str(CONSTRAINTS), *arguments]


def pip_uninstall(python: Path, *names: str) -> list[str]:
    """The pip command that removes packages, installed or not, from the environment of `python`."""
    return [*_pip(python), "uninstall", *_QUIET, "--yes", *names]


def _pip(python: Path) -> list[str]:
    """Our own pip, working on another environment."""
    return [str(tool_python()), "-m", "pip", "--python", str(python)]


def _run(command: list[str]) -> None:
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise host.HostError(f"`{' '.join(command[:5])} …` failed; its output is above")
