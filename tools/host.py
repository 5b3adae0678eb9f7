"""What the host machine must have before anything can be built, and how to get it.

Standard library only: this runs before any environment exists. As root on a machine with apt the
missing packages are installed; anybody else is told the one command that does it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_HEADERS = {"stdio.h": "libc6-dev", "linux/kvm.h": "linux-libc-dev"}


class HostError(Exception):
    """The host lacks something and we could not provide it; the message is one sentence."""


@dataclass(frozen=True)
class Lack:
    """One missing thing and the Debian packages that bring it (empty: none does)."""

    what: str
    package: str


def python_lacks() -> list[Lack]:
    """What is missing to create a virtual environment."""
    found = importlib.util.find_spec("ensurepip")
    if found is not None and found.origin is not None:
        return []
    return [Lack(f"{_python()} has no ensurepip", _debian_only("python3-venv"))]


def compiler_lacks() -> list[Lack]:
    """What is missing to compile our C: a compiler and the headers it needs."""
    lacks = []
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        lacks.append(Lack(f"{_python()} has no Python.h", _debian_only("python3-dev")))
    command = compiler()
    if shutil.which(command) is None:
        packages = " ".join(["gcc", *_HEADERS.values()])
        return [*lacks, Lack(f"there is no C compiler ({command})", packages)]
    return lacks + [
        Lack(f"there is no <{header}>", package)
        for header, package in _HEADERS.items()
        if not _has_header(command, header)
    ]


def require(lacks: list[Lack]) -> None:
    """Install what is missing, or raise `HostError` with the command that would."""
    if not lacks:
        return
    what = ", ".join(lack.what for lack in lacks)
    packages = sorted({name for lack in lacks for name in lack.package.split()})
    if any(not lack.package for lack in lacks):
        raise HostError(f"{what}: use one that has, for example /usr/bin/python3")
    if shutil.which("apt-get") is None:
        raise HostError(f"{what}: install it (Debian calls the package {' '.join(packages)})")
    if os.geteuid() != 0:
        raise HostError(f"{what}: run `sudo apt-get install {' '.join(packages)}`")
    apt_install(packages, why=what)


def require_program(program: str, package: str) -> None:
    """Make sure that `program` is on PATH, from Debian's `package` if it is not."""
    if shutil.which(program) is None:
        require([Lack(f"there is no {program}", package)])


def apt_install(packages: list[str], *, why: str) -> None:
    """Install Debian packages as root; the lists are refreshed only when the first try fails."""
    say(f"{why}: installing {' '.join(packages)} with apt-get")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (install, ["apt-get", "update", "-q"], install):
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and command is install:
            return
    last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
    raise HostError(f"{why}, and apt-get install {' '.join(packages)} failed: {last}")


def say(text: str) -> None:
    """Print a line of progress on standard error; standard output is for results."""
    print(f"py-vmm: {text}", file=sys.stderr, flush=True)


def _python() -> str:
    return f"Python {platform.python_version()} in {sys.base_prefix}"


def _debian_only(package: str) -> str:
    """The package, if it is Debian's own Python that lacks something."""
    return package if sys.base_prefix == "/usr" else ""


def compiler() -> str:
    """The C compiler that builds extension modules of this Python."""
    configured = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return str(configured).split()[0]


def _has_header(compiler: str, header: str) -> bool:
    done = subprocess.run(
        [compiler, "-E", "-x", "c", "-", "-o", os.devnull],
        input=f"#include <{header}>\n".encode(),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0
