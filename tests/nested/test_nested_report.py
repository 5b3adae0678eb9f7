"""A run is only good if what should run has run."""

from __future__ import annotations

import re

import pytest
import report
from report import Case

RECORD = """<?xml version="1.0"?><testsuites><testsuite name="pytest">
<testcase classname="tests.conformance.test_rings" name="test_a[kvm-x/y]" />
<testcase classname="tests.conformance.test_rings" name="test_b"><failure message="no">…</failure>
</testcase>
<testcase classname="tests.conformance.test_rings" name="test_c"><skipped message="why" />
</testcase>
<testcase classname="tests.conformance.test_rings" name="test_d" />
<testcase classname="tests.conformance.test_rings" name="test_d"><error message="late" /></testcase>
</testsuite></testsuites>"""
GROUP = "tests.conformance.test_rings"
PASSED = Case(GROUP, "test_a", "passed")


def test_read_gives_one_case_per_test():
    """A test whose teardown fails has two entries in the record and is one failed test."""
    assert report.read(RECORD) == [
        Case(GROUP, "test_a[kvm-x/y]", "passed"),
        Case(GROUP, "test_b", "failed", "no"),
        Case(GROUP, "test_c", "skipped", "why"),
        Case(GROUP, "test_d", "failed", "late"),
    ]


def test_read_refuses_what_is_cut_short():
    """Half a record is none."""
    with pytest.raises(ValueError, match="no JUnit record"):
        report.read(RECORD[:200])


@pytest.mark.parametrize(
    ("node_id", "group", "name"),
    [
        ("tests/test_a.py::test_b", "tests.test_a", "test_b"),
        ("tests/x/test_a.py::test_b[kvm-p::q/r.py]", "tests.x.test_a", "test_b[kvm-p::q/r.py]"),
        ("tests/test_a.py::TestC::test_b", "tests.test_a.TestC", "test_b"),
    ],
)
def test_key_of_finds_the_record_of_a_node_id(node_id, group, name):
    """Two ways of pytest to name the same test."""
    assert report.key_of(node_id) == (group, name)


def test_patterns_leave_comments_out():
    """One expression per line."""
    found = report.patterns("# why\n\n  no objdump \n")
    assert [pattern.pattern for pattern in found] == ["no objdump"]


def test_a_good_run_has_no_problems():
    """Everything expected passed, or was skipped for a listed reason."""
    skipped = Case(GROUP, "test_c", "skipped", "needs objdump")
    expected = [
        "tests/conformance/test_rings.py::test_a",
        "tests/conformance/test_rings.py::test_c",
    ]
    allowed = [re.compile("objdump")]
    assert report.problems([PASSED, skipped], expected, allowed, ["tests.conformance."]) == []


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (Case(GROUP, "test_c", "failed", "x"), f"{GROUP}::test_c failed"),
        (
            Case(GROUP, "test_c", "skipped", "this KVM cannot run it"),
            f"{GROUP}::test_c was skipped, which nothing allows here: this KVM cannot run it",
        ),
    ],
)
def test_failed_and_unlisted_skips_are_problems(case, problem):
    """One sentence each."""
    assert report.problems([PASSED, case], [], [re.compile("objdump")], []) == [problem]


def test_what_has_not_run_is_a_problem():
    """The host knows what should run; a green record without it is not green."""
    missing = "tests/conformance/test_rings.py::test_z"
    assert report.problems([PASSED], [missing], [], []) == [f"{missing} has not run"]


def test_a_group_without_a_pass_is_a_problem():
    """Nothing of a package selected, or all of it skipped, proves nothing."""
    problems = report.problems([PASSED], [], [], ["tests.conformance.", "packages.kvm_ioctls."])
    assert problems == ["no test of packages.kvm_ioctls has passed"]


def test_counts():
    """Kinds that did not occur are left out."""
    assert report.counts([PASSED, PASSED]) == "2 passed"
    assert report.counts([]) == "no tests"


def test_record_of_a_problem_counts_as_a_failure():
    """Without a record from the machine, CI still counts one failed test."""
    (case,) = report.read(report.record_of("QEMU is gone"))
    assert (case.outcome, case.reason) == ("failed", "QEMU is gone")
