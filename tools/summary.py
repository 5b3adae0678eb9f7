"""The closing table of a CI run: what each session did, and one line that counts every test.

usage: python3 tools/summary.py RESULTS SESSION=STATUS=SECONDS…
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path


def counts(path: Path) -> Counter[str]:
    """Passed, failed and skipped tests of one JUnit file; an unreadable file counts as nothing."""
    total: Counter[str] = Counter()
    try:
        suites = list(ET.parse(path).getroot().iter("testsuite"))  # noqa: S314 - our own file
    except (OSError, ET.ParseError):
        return total
    for suite in suites:
        number = {
            name: int(suite.get(name, "0")) for name in ("tests", "errors", "failures", "skipped")
        }
        failed = number["errors"] + number["failures"]
        total["failed"] += failed
        total["skipped"] += number["skipped"]
        total["passed"] += number["tests"] - failed - number["skipped"]
    return total


def main(folder: Path, sessions: list[str]) -> int:
    """Print the table; a session that failed without a failed test counts as one failure."""
    total: Counter[str] = Counter()
    for entry in sessions:
        name, status, seconds = entry.split("=")
        own: Counter[str] = Counter()
        for path in (*folder.glob(f"{name}.xml"), *folder.glob(f"{name}-*.xml")):
            own += counts(path)
        if status != "0" and not own["failed"]:
            own["failed"] += 1
        verdict = "ok" if status == "0" else f"FAILED (exit code {status})"
        tests = ", ".join(
            f"{own[kind]} {kind}" for kind in ("passed", "failed", "skipped") if own[kind]
        )
        print(f"{name:10} {seconds:>5} s  {verdict:8} {tests}")
        total += own
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
