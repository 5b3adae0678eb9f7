"""The repository's commands: `python3 noxfile.py SESSION`, or `nox -s SESSION`.

As a script it fetches nox if that is missing. Every session installs the wheels that
`tools.artifacts` built from the present sources and reuses its environment as long as nothing
changed.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

if sys.version_info < (3, 11):  # noqa: UP036 - one sentence instead of a traceback
    sys.exit(f"py-vmm: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")

if __name__ == "__main__":
    from tools import bootstrap

    sys.exit(bootstrap.main(sys.argv[1:]))

import nox

from tools import environment, host, sessions
from tools.artifacts import PACKAGES

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.envdir = str(environment.base() / "sessions")
nox.options.sessions = ["test"]
logging.getLogger("nox").addFilter(lambda record: "uv binary" not in record.getMessage())

# pip runs from the environment of the tools: a session's own would take five seconds to make
session = nox.session(venv_params=["--without-pip"])

#: Packages whose C the session `sanitize` builds anew and tests.
SANITIZED = ("kvm_ioctls", "vm_memory", "virtio_devices")
TEST_TOOLS = ("pytest", "hypothesis", "pytest-timeout")


@session
def boot(session: nox.Session) -> None:
    """Boot a Linux guest; arguments after `--` go to vmm-reference."""
    sessions.install(session)
    vmm = Path(session.bin) / "vmm-reference"
    os.chdir(os.environ.get("PY_VMM_CWD", "."))
    os.execv(vmm, [str(vmm), *sessions.boot_arguments(session.posargs)])


@session
def test(session: nox.Session) -> None:
    """Run all tests; arguments after `--` go to pytest."""
    if os.geteuid() == 0:  # without them the tests that use them skip
        host.require_program("iasl", "acpica-tools")
        host.require_program("qemu-system-x86_64", "qemu-system-x86")
        host.require_program("ip", "iproute2")
        host.require_program("mkfs.ext4", "e2fsprogs")
    sessions.install(session, extra="[test]")
    env = {"PY_VMM_TEST_KERNEL": sessions.guest_kernel(session)}
    elsewhere = [f"--ignore=tests/{name}" for name in ("lint", "wheels")]
    sessions.pytest(session, "test", *elsewhere, defaults=("packages", "tests"), env=env)


@session
@nox.parametrize("package", PACKAGES)
def isolated(session: nox.Session, package: str) -> None:
    """Run one package's tests with nothing else of ours installed but what it declares."""
    if os.geteuid() == 0:
        host.require_program("ip", "iproute2")
    sessions.install_alone(session, package)
    sessions.pytest(session, f"isolated-{package}", f"packages/{package}/tests", "-m", "not boot")


@session
@nox.parametrize("package", SANITIZED)
def sanitize(session: nox.Session, package: str) -> None:
    """Run a package's tests with its C under AddressSanitizer and UndefinedBehaviorSanitizer."""
    env = sessions.install_sanitized(session, package)
    paths = [f"packages/{package}/tests"]
    if package == "virtio_devices":  # the fuzz targets are all about it
        paths.append("tests/test_fuzz_targets.py")
    # What an import costs is no property of a build with checks in it.
    arguments = (*paths, "-m", "not boot", "-k", "not import_costs")
    sessions.pytest(session, f"sanitize-{package}", *arguments, env=env)


@session
def fuzz(session: nox.Session) -> None:
    """Fuzz one target, for a minute unless told otherwise: `fuzz -- NAME [LIBFUZZER OPTIONS]`."""
    names = sorted(path.stem for path in (ROOT / "tests" / "fuzz").glob("[!_]*.py"))
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"name one target: {', '.join(names)}")
    sessions.install(session, "atheris", extra="[test]")
    name, *options = session.posargs
    corpus = ROOT / ".py-vmm" / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    # An input that takes ten seconds is a finding; in 1024 bytes there are as many steps as a
    # target takes. Of two options of one name the later one counts.
    bounds = ("-max_total_time=60", "-timeout=10", "-max_len=1024", "-len_control=0")
    session.run("python", "tests/fuzz", name, *bounds, *options, str(corpus))


@session
def lint(session: nox.Session) -> None:
    """Ruff, layers, public names, packaging; `-- --regenerate` rewrites the name lists."""
    sessions.install_tools(session, "ruff", "pytest", "pytest-timeout", "packaging")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sessions.pytest(session, "lint", "tests/lint")


@session
def types(session: nox.Session) -> None:
    """Type-check every source, the tools and the programs in tests/typing, strictly."""
    stubs = ("types-cffi", "types-docutils", "types-setuptools")
    libraries = ("cffi", "unicorn", "nox", "packaging", "Sphinx", *TEST_TOOLS)
    sessions.install_tools(session, "mypy", *stubs, *libraries)
    sources = [f"packages/{name}/src" for name in PACKAGES]
    environment_variables = {"MYPYPATH": os.pathsep.join(sources)}
    others = ["tests/typing", "tools", "benchmarks", "docs/conf.py", "noxfile.py"]
    session.run("mypy", *sources, *others, env=environment_variables)


@session
def docs(session: nox.Session) -> None:
    """Build the documentation, each warning an error; check that no public name is missing."""
    sessions.install(session, "Sphinx", "furo", "myst-parser", "pytest", "pytest-timeout")
    session.run(
        "sphinx-build", "-n", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html"
    )
    sessions.pytest(session, "docs", "docs/test_reference.py")


@session
def wheels(session: nox.Session) -> None:
    """Build sdists and wheels, install them into a clean environment, boot from there."""
    sessions.install_tools(session, "pytest", "pytest-timeout")
    dist = sessions.collect_dist()
    for wheel in sorted(Path(dist).glob("*.whl")):
        session.log(f"{wheel.stat().st_size / 1024:6.0f} KiB  {wheel.name}")
    sessions.pytest(session, "wheels", "tests/wheels", env={"PY_VMM_DIST": dist})


@session
def nested(session: nox.Session) -> None:
    """Run what needs a real KVM inside an emulated machine that has one."""
    program = ROOT / "tests" / "nested" / "run.py"
    sessions.install(session, extra="[test]")
    results = str(sessions.results() / "nested.xml")
    session.run("python", str(program), "--junitxml", results, *session.posargs)


@session
def bench(session: nox.Session) -> None:
    """Run one benchmark beside its anchor: `bench -- NAME [ARGUMENTS]`."""
    names = sorted(
        path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py") if path.stem != "harness"
    )
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"name one benchmark: {', '.join(names)}")
    sessions.install(session, "setuptools")  # with which cffi compiles the floor in C
    name, *arguments = session.posargs
    session.run("python", "-m", f"benchmarks.{name}", *arguments)
