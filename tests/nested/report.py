"""Judging the JUnit record of a run: everything expected has run, and what was skipped may be.

A green run of nothing is a failure here; so is a test that the host expected and the record lacks.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GROUPS = (
    "packages.kvm_ioctls.",
    "packages.vmm_reference.",
    "tests.conformance.",
    "tests.test_stock_kernel",
)
"""In a run of everything, something must have passed in each of these."""


@dataclass(frozen=True)
class Case:
    """One test of a record: what became of it ("passed", "failed" or "skipped"), and why."""

    group: str
    name: str
    outcome: str
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other test."""
        return self.group, self.name

    def __str__(self) -> str:
        return f"{self.group}::{self.name}"


def read(record: str) -> list[Case]:
    """The tests of a JUnit record; a test that failed and then errored counts once, as failed.

    Raises:
        ValueError: it is not one.
    """
    try:
        root = ET.fromstring(record)  # noqa: S314 - written by our own pytest
    except ET.ParseError as error:
        raise ValueError(f"no JUnit record: {error}") from None
    cases: dict[tuple[str, str], Case] = {}
    for element in root.iter("testcase"):
        case = _case(element)
        if case.key not in cases or case.outcome == "failed":
            cases[case.key] = case
    return list(cases.values())


def _case(element: ET.Element) -> Case:
    group, name = element.get("classname", ""), element.get("name", "")
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = element.find(tag)
        if found is not None:
            return Case(group, name, outcome, found.get("message", ""))
    return Case(group, name, "passed")


def key_of(node_id: str) -> tuple[str, str]:
    """How a JUnit record names the test that pytest calls `node_id`."""
    head, bracket, parameters = node_id.partition("[")
    path, *names = head.split("::")
    groups = [path.removesuffix(".py").replace("/", "."), *names[:-1]]
    return ".".join(groups), names[-1] + bracket + parameters


def patterns(text: str) -> list[re.Pattern[str]]:
    """The regular expressions of a list of allowed skips."""
    lines = (line.strip() for line in text.splitlines())
    return [re.compile(line) for line in lines if line and not line.startswith("#")]


def problems(
    cases: Sequence[Case],
    expected: Iterable[str],
    allowed: Sequence[re.Pattern[str]],
    groups: Sequence[str] = GROUPS,
) -> list[str]:
    """What is wrong with a run, one sentence each; empty if all is well.

    Args:
        cases: what has run.
        expected: node IDs of what should have.
        allowed: reasons for which a test may be skipped.
        groups: beginnings of names; each needs a test that has passed.
    """
    found = [f"{case} failed" for case in cases if case.outcome == "failed"]
    for case in cases:
        may_skip = any(pattern.search(case.reason) for pattern in allowed)
        if case.outcome == "skipped" and not may_skip:
            found.append(f"{case} was skipped, which nothing allows here: {case.reason}")
    known = {case.key for case in cases}
    found += [f"{node_id} has not run" for node_id in expected if key_of(node_id) not in known]
    passed = [case.group for case in cases if case.outcome == "passed"]
    for group in groups:
        if not any(name.startswith(group) for name in passed):
            found.append(f"no test of {group.strip('.')} has passed")
    return found


def counts(cases: Iterable[Case]) -> str:
    """For example "31 passed, 2 skipped"."""
    number = Counter(case.outcome for case in cases)
    order = ("passed", "failed", "skipped")
    return ", ".join(f"{number[kind]} {kind}" for kind in order if number[kind]) or "no tests"


def record_of(problem: str) -> str:
    """A JUnit record with one error, for a machine that has left none."""
    suite = ET.Element("testsuite", name="nested", tests="1", errors="1", failures="0", skipped="0")
    case = ET.SubElement(suite, "testcase", classname="tests.nested", name="machine")
    ET.SubElement(case, "error", message=problem)
    root = ET.Element("testsuites")
    root.append(suite)
    return ET.tostring(root, encoding="unicode")
