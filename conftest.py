"""Skips are results: with CI=true a skip that `tests/allowed_skips.txt` does not list fails.

The file has one section per kind of machine; a skip may also be allowed by the section `any`. A
machine is of several kinds at once, for example `kvm` and `root`.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# A job in the background of a shell, or under nohup, inherits signals that are ignored. What the
# tests start must see them as it would in a terminal's foreground.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        )

_ALLOWED = Path(__file__).parent / "tests" / "allowed_skips.txt"


def machine_kinds() -> set[str]:
    """Which sections apply here; PY_VMM_MACHINE adds kinds that only the caller can know."""
    kinds = {"any", "root" if os.geteuid() == 0 else "user"}
    kinds.add("kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "no-kvm")
    return kinds | set(os.environ.get("PY_VMM_MACHINE", "").split())


def allowed_reasons(text: str, kinds: set[str]) -> list[re.Pattern[str]]:
    """The patterns of the sections that apply; a comment must precede each pattern."""
    patterns, kind = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif line.strip() and not line.startswith("#") and kind in kinds:
            patterns.append(re.compile(line.strip()))
    return patterns


class AllowedSkips:
    """Turns every skip whose reason matches no allowed pattern into a failure."""

    def __init__(self, patterns: list[re.Pattern[str]]) -> None:
        """Allow skips whose reason matches one of `patterns`."""
        self.patterns = patterns

    def judge(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Change the outcome of a report that skips for a reason that is not listed."""
        if report.outcome != "skipped" or hasattr(report, "wasxfail"):
            return
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(pattern.search(reason) for pattern in self.patterns):
            report.outcome = "failed"
            report.longrepr = f"this skip is not in tests/allowed_skips.txt: {reason}"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judge the report of a test."""
        report = yield
        self.judge(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Judge the report of a module that skips as a whole."""
        report = yield
        self.judge(report)
        return report


def pytest_configure(config: pytest.Config) -> None:
    """Judge skips in CI only: a contributor's machine may lack anything."""
    if os.environ.get("CI") == "true":
        patterns = allowed_reasons(_ALLOWED.read_text(), machine_kinds())
        config.pluginmanager.register(AllowedSkips(patterns), "allowed-skips")
