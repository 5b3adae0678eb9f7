"""How the nox sessions install and run things: only what changed is installed again."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tools import artifacts, environment, host

if TYPE_CHECKING:
    import nox

_STAMP = "py-vmm-installed.json"
_BOOT_SCRIPT = (
    "uname -a; grep MemTotal /proc/meminfo; "
    'echo "CPUs: $(grep -c ^processor /proc/cpuinfo)"; '
    'echo "uptime: $(cut -d" " -f1 /proc/uptime) s"'
)


def boot_arguments(given: list[str]) -> list[str]:
    """The caller's arguments, and a short script to run when nobody sits at a terminal."""
    own = ("--exec", "--kernel", "--initramfs", "--cmdline", "--help", "-h", "--version")
    decided = any(argument.split("=")[0] in own for argument in given)
    if decided or (sys.stdin.isatty() and sys.stdout.isatty()):
        return given
    return ["--exec", _BOOT_SCRIPT, *given]


def install(session: nox.Session, *tools: str, extra: str = "") -> None:
    """Install the present wheels of all our packages, what they declare, and third-party `tools`.

    `extra` is an extra of each package, as `[test]`.
    """
    built = _build(session)
    _install(session, built, [f"{artifact.wheel}{extra}" for artifact in built], list(tools))


def install_alone(session: nox.Session, package: str, *tools: str) -> None:
    """Install one package with its `test` extra; siblings come only if it declares them."""
    built = _build(session)
    own = next(artifact for artifact in built if artifact.name == package)
    find = ["--find-links", _link_folder(built)]
    _install(session, built, [*find, f"{own.wheel}[test]"], list(tools))


def install_sanitized(session: nox.Session, package: str) -> dict[str, str]:
    """Install one package with its C under the sanitizers; returns the environment of its tests.

    AddressSanitizer's library must be loaded before anything else. Its handlers of signals are off,
    because tests start processes that are meant to die of them. Python takes its memory from
    malloc, so that it is watched as well.
    """
    install_alone(session, package, "setuptools", "wheel", "cffi")
    (sdist,) = [artifact.sdist for artifact in _build(session) if artifact.name == package]
    again = ("--force-reinstall", "--no-deps", "--no-build-isolation")
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    command = environment.pip_install(Path(session.bin) / "python", *again, str(sdist))
    _pip(session, command, CFLAGS=flags, LDFLAGS=flags)
    find_library = (host.compiler(), "-print-file-name=libasan.so")
    library = session.run(*find_library, silent=True, log=False, external=True)
    return {
        "LD_PRELOAD": str(library).strip(),
        "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:handle_sigbus=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


def install_tools(session: nox.Session, *tools: str) -> None:
    """Install third-party tools at their pinned versions, and nothing of ours."""
    _install(session, [], [], list(tools))


def pytest(
    session: nox.Session,
    name: str,
    *arguments: str,
    defaults: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> None:
    """Run pytest; the result is kept for the summary of CI.

    `defaults` are the paths to take unless the caller names some after `--`.
    """
    xml = results() / f"{name}.xml"
    xml.unlink(missing_ok=True)
    named = any(Path(argument.split("::")[0]).exists() for argument in session.posargs)
    paths = () if named else defaults
    session.run("pytest", f"--junitxml={xml}", *arguments, *paths, *session.posargs, env=env)


def guest_kernel(session: nox.Session) -> str:
    """The default guest's kernel, fetched if it is not there; empty if it cannot be had."""
    command = ("python", "-m", "vmm_reference.guest_assets")
    paths = session.run(*command, silent=True, log=False, success_codes=(0, 1))
    found = re.search(r"^kernel: (.*)$", str(paths), re.MULTILINE)
    return found[1] if found else ""


def results() -> Path:
    """Where sessions leave their JUnit files for `tools.summary`."""
    folder = environment.HOME / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def collect_dist() -> str:
    """Put all sdists and wheels into `dist/`, emptied before, and return its path."""
    folder = environment.ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for artifact in artifacts.build():
        shutil.copy2(artifact.wheel, folder)
        shutil.copy2(artifact.sdist, folder)
    return str(folder)


def _build(session: nox.Session) -> list[artifacts.Artifact]:
    try:
        return artifacts.build()
    except host.HostError as error:
        session.error(str(error))


def _install(
    session: nox.Session,
    built: list[artifacts.Artifact],
    requirements: list[str],
    tools: list[str],
) -> None:
    """Bring the environment to the wanted state; a stamp inside it tells what it holds."""
    stamp = Path(session.virtualenv.location) / _STAMP
    hashes = {artifact.name: artifact.source_hash for artifact in built}
    wanted = {"tools": tools, "packages": hashes}
    held = json.loads(stamp.read_text()) if stamp.exists() else {}
    if held == wanted:
        return
    stamp.unlink(missing_ok=True)
    python = Path(session.bin) / "python"
    known = held.get("packages", {})
    changed = [name for name in hashes if known.get(name) != hashes[name]]
    if changed:  # a new build of the same version: pip would keep the old one
        _pip(session, environment.pip_uninstall(python, *changed))
    host.say(f"installing into the environment of session {session.name}")
    _pip(session, environment.pip_install(python, *requirements, *tools))
    stamp.write_text(json.dumps(wanted))


def _pip(session: nox.Session, command: list[str], **variables: str) -> None:
    env = {"PIP_ROOT_USER_ACTION": "ignore", **variables}
    session.run(*command, env=env, silent=True, log=False, external=True)


def _link_folder(built: list[artifacts.Artifact]) -> str:
    """A folder with all our wheels, for pip to find declared siblings in."""
    folder = environment.base() / "links"
    folder.mkdir(exist_ok=True)
    wanted = {artifact.wheel.name: artifact.wheel for artifact in built}
    for old in folder.iterdir():
        old.unlink()
    for name, wheel in wanted.items():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            link = Path(scratch) / name
            link.symlink_to(wheel)
            link.replace(folder / name)
    return str(folder)
