"""Fetching Debian packages with `apt-get download`: no root, and the system is left as it is.

Which servers are asked, through which proxy and with which keys is the system's own apt
configuration. The package lists are the system's when a download with them succeeds; otherwise
(an empty or outdated `/var/lib/apt/lists`, a foreign architecture) private ones below the cache.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmm_reference.guest_assets.cache import disk_full
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_QUERY_SECONDS = 60
_UPDATE_SECONDS = 180
_DOWNLOAD_SECONDS = 600

_COMMON_CONFIG = """\
// A refused or silent server must not hold up a boot for minutes.
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::Retries "1";
Acquire::Languages "none";
// The user _apt can reach neither root's nor anyone's cache folder.
APT::Sandbox::User "root";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures { "amd64"; };
// The system's hooks are for the system's lists.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""

# What apt says, and what that means. The first match counts.
_SYMPTOMS: Sequence[tuple[str, Cause]] = (
    ("No space left on device|don't have enough free space|quota exceeded", Cause.DISK_FULL),
    ("resolv|onnection (failed|refused|timed out|reset)|onnection to .* failed", Cause.NO_NETWORK),
    ("nable to connect|ould not connect|etwork is unreachable|No route to", Cause.NO_NETWORK),
    ("Unable to locate package|No packages found|Version .* was not found", Cause.UNKNOWN_PACKAGE),
)


@dataclass(frozen=True, slots=True)
class Package:
    """What the lists say about a package.

    Attributes:
        depends: names of the packages it depends on, first alternatives only.
        size: bytes of the .deb.
    """

    name: str
    version: str
    depends: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Apt:
    """One set of package lists that `apt-get` can be asked about.

    Attributes:
        folder: where this object keeps its configuration, and private lists if any.
        config: the file handed to `apt-get -c`.
        private: whether the lists are below `folder` instead of the system's.
    """

    folder: Path
    config: Path
    private: bool

    def update(self) -> None:
        """Bring private lists up to date.

        One broken third-party repository among the system's sources does not matter, so the
        verdict is left to the question that follows; only no network at all is an error.
        """
        result = self._run("apt-get", "update", seconds=_UPDATE_SECONDS)
        lists = self.folder / "state" / "lists"
        if not any(lists.glob("*_Packages*")):
            silent = Cause.APT_FAILED if result.returncode else Cause.NO_SOURCES
            cause = _cause_of(result.stderr, otherwise=silent)
            if cause is Cause.NO_SOURCES:
                raise GuestAssetsError(cause, "apt has no package sources that it can read")
            raise _error(cause, "update", result.stderr, self.folder)

    def show(self, *names: str) -> list[Package]:
        """The candidate version of each package in `names`, in that order.

        Raises:
            GuestAssetsError: `Cause.UNKNOWN_PACKAGE` when the lists lack one of them.
        """
        result = self._run("apt-cache", "show", "--no-all-versions", *names, seconds=_QUERY_SECONDS)
        known = {package.name: package for package in map(_package, _paragraphs(result.stdout))}
        for name in names:
            if name not in known:
                raise GuestAssetsError(
                    Cause.UNKNOWN_PACKAGE, f"apt's sources hold no package {name}"
                )
        return [known[name] for name in names]

    def download(self, packages: Sequence[Package], into: Path) -> list[Path]:
        """Download exactly these versions into the folder `into`; apt checks the signatures.

        Returns:
            The .deb files, in the order of `packages`.
        """
        into.mkdir(parents=True, exist_ok=True)
        wanted = [f"{package.name}={package.version}" for package in packages]
        result = self._run("apt-get", "download", *wanted, seconds=_DOWNLOAD_SECONDS, cwd=into)
        if result.returncode != 0:
            raise _error(_cause_of(result.stderr), "download", result.stderr, into)
        return [_downloaded(into, package) for package in packages]

    def _run(
        self, program: str, action: str, *arguments: str, seconds: int, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [program, "-c", str(self.config), "-q", action, *arguments]
        return _run(command, seconds, cwd or self.folder)


def system_lists(folder: Path) -> Apt:
    """Use the system's own lists; `folder` receives a configuration file."""
    return _with_config(folder, "system.conf", _COMMON_CONFIG, private=False)


def private_lists(folder: Path) -> Apt:
    """Use lists of our own below `folder`, to be filled by `update`."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").touch()
    config = (
        f"{_COMMON_CONFIG}"
        f'Dir::State "{folder}/state";\n'
        f'Dir::State::lists "{folder}/state/lists";\n'
        f'Dir::State::status "{folder}/state/status";\n'
        f'Dir::Cache "{folder}/cache";\n'
        f'Dir::Cache::archives "{folder}/cache/archives";\n'
    )
    return _with_config(folder, "private.conf", config, private=True)


def _with_config(folder: Path, name: str, text: str, *, private: bool) -> Apt:
    if shutil.which("apt-get") is None or shutil.which("apt-cache") is None:
        raise GuestAssetsError(Cause.NO_APT, "this machine has no apt-get to fetch a guest with")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / name
    config.write_text(text)
    return Apt(folder, config, private)


def _run(command: Sequence[str], seconds: int, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run an apt program; when it takes too long it ends together with its helpers."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                what = next(word for word in command[3:] if not word.startswith("-"))
                raise GuestAssetsError(
                    Cause.TIMEOUT,
                    f"{command[0]} {what} did not finish within {seconds} s",
                    "check the network or pass --kernel and --initramfs",
                ) from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _cause_of(stderr: str, otherwise: Cause = Cause.APT_FAILED) -> Cause:
    for pattern, cause in _SYMPTOMS:
        if re.search(pattern, stderr):
            return cause
    return otherwise


def _error(cause: Cause, action: str, stderr: str, where: Path) -> GuestAssetsError:
    first = next(
        (line[2:].strip() for line in stderr.splitlines() if line.startswith("E:")),
        "no reason given",
    )
    if cause is Cause.NO_NETWORK:
        return GuestAssetsError(
            cause,
            "the guest is not in the cache yet and apt-get reaches no package server",
            "connect to the network once, or pass --kernel and --initramfs",
        )
    if cause is Cause.DISK_FULL:
        return disk_full(where)
    return GuestAssetsError(cause, f"apt-get {action} failed: {first}")


def _paragraphs(text: str) -> list[Mapping[str, str]]:
    """Paragraphs of `Key: value` lines (deb822(5)); continuation lines are dropped."""
    result: list[Mapping[str, str]] = []
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.split(":", 1) for line in block.splitlines() if re.match(r"[\w-]+:", line))
        fields = {key: value.strip() for key, value in pairs}
        if "Package" in fields:
            result.append(fields)
    return result


def _package(fields: Mapping[str, str]) -> Package:
    depends = fields.get("Depends", "")
    names = tuple(
        match.group(0)
        for part in depends.split(",")
        if (match := re.match(r"[^\s(|:]+", part.strip()))
    )
    return Package(fields["Package"], fields["Version"], names, int(fields.get("Size", "0")))


def _downloaded(folder: Path, package: Package) -> Path:
    """The file that apt made: NAME_VERSION_ARCH.deb with the version's colon escaped."""
    version = package.version.replace(":", "%3a")
    for path in folder.glob(f"{package.name}_*.deb"):
        if path.name.startswith(f"{package.name}_{version}_"):
            return path
    raise GuestAssetsError(Cause.APT_FAILED, f"apt-get did not deliver {package.name} {version}")
