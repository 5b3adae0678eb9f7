"""`python3 noxfile.py SESSION… [-- ARGUMENTS]`: run nox, our own if there is none.

Standard library only. `noxfile.py` hands over to `main` when it is run as a script.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

from tools import environment, host

USAGE = """\
usage: python3 noxfile.py SESSION… [-- ARGUMENTS]

  boot      boot a Linux guest; ARGUMENTS go to vmm-reference
  test      all tests; ARGUMENTS go to pytest
  isolated  each package's tests with nothing else of ours installed but what it declares
  sanitize  tests of a package whose C is built with AddressSanitizer and UBSan
  fuzz      one target of tests/fuzz for a minute: python3 noxfile.py fuzz -- virtio_rings
  lint      ruff, import layers, public names, packaging
  types     mypy --strict
  docs      the documentation, with every warning an error
  wheels    sdists and wheels, installed into a clean environment and booted from there
  nested    everything that needs a real KVM, inside an emulated machine that has one
  bench     a benchmark beside its anchor: python3 noxfile.py bench -- boot
  ci        all of the above but boot, fuzz and bench, as CI runs them
"""
_OLDEST_NOX = (2025, 2, 9)


def main(arguments: list[str]) -> NoReturn:
    """Replace this process by nox, or exit with one sentence if that is impossible."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    if arguments[0] == "ci":
        os.execv("/bin/bash", ["bash", str(environment.ROOT / ".ci" / "run")])
    try:
        python = sys.executable if _nox_is_here() else str(environment.tool_python())
    except host.HostError as error:
        host.say(str(error))
        sys.exit(1)
    os.environ.setdefault("PY_VMM_CWD", str(Path.cwd()))
    noxfile = str(environment.ROOT / "noxfile.py")
    os.execv(python, [python, "-m", "nox", "--noxfile", noxfile, *_nox_arguments(arguments)])


def _nox_arguments(arguments: list[str]) -> list[str]:
    """Session names become `--session NAME…`; anything that starts with a dash is nox's own."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    ours, rest = arguments[:cut], arguments[cut:]
    if ours[0].startswith("-"):
        return arguments
    return ["--session", *ours, *rest]


def _nox_is_here() -> bool:
    if importlib.util.find_spec("nox") is None:
        return False
    version = importlib.metadata.version("nox").split(".")
    return tuple(int(part) for part in version[:3] if part.isdigit()) >= _OLDEST_NOX
