"""The repository's own tools: arguments, skips, summaries, source hashes, benchmark verdicts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from benchmarks import harness
from tools import artifacts, bootstrap, host, sessions, summary

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def root_conftest():
    """The module that judges skips."""
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["boot"], ["--session", "boot"]),
        (["lint", "types"], ["--session", "lint", "types"]),
        (["boot", "--", "--exec", "x"], ["--session", "boot", "--", "--exec", "x"]),
        (["--list"], ["--list"]),
    ],
)
def test_names_become_sessions(given, expected):
    """Session names are nox's sessions; what follows `--` and nox's own options are untouched."""
    assert bootstrap._nox_arguments(given) == expected


@pytest.mark.parametrize("flag", ["--exec", "--kernel", "--initramfs", "--cmdline", "--version"])
def test_boot_adds_no_command_to_a_guest_of_the_callers(flag):
    """`boot` runs its script only where the caller has not said what to run."""
    assert sessions.boot_arguments([flag, "x"]) == [flag, "x"]
    assert sessions.boot_arguments([f"{flag}=x"]) == [f"{flag}=x"]


def test_boot_runs_a_script_without_a_terminal(monkeypatch):
    """Without a terminal `boot` shows a machine that ends by itself."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    given = ["--memory", "size=1G"]
    added = sessions.boot_arguments(given)
    assert (added[0], added[2:]) == ("--exec", given)


def test_only_listed_skips_are_allowed(root_conftest):
    """A pattern counts if its section applies to the machine; comments never count."""
    text = "[any]\n# why\nalways\n\n[kvm]\n# why\nwith kvm\n"
    patterns = root_conftest.allowed_reasons(text, {"any", "no-kvm"})
    assert [pattern.pattern for pattern in patterns] == ["always"]


def test_an_unlisted_skip_becomes_a_failure(root_conftest):
    """The report of a skip that no pattern allows has failed and says what to do."""
    report = pytest.TestReport(
        "test", ("file", 1, "test"), {}, "skipped", ("file", 1, "Skipped: because"), "call"
    )
    root_conftest.AllowedSkips([]).judge(report)
    assert report.outcome == "failed"
    assert "because" in report.longrepr


def test_summary_counts_every_kind(tmp_path, capsys):
    """The closing line adds up all sessions; one that died without a failed test counts as one."""
    suite = '<testsuite tests="5" errors="1" failures="1" skipped="1"/>'
    (tmp_path / "test.xml").write_text(f"<testsuites>{suite}</testsuites>")
    code = summary.main(tmp_path, ["test=1=10", "lint=0=5", "types=1=7"])
    assert code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 3 failed, 1 skipped"


def test_summary_of_success(tmp_path, capsys):
    """Sessions without tests of their own do not fail the run."""
    assert summary.main(tmp_path, ["types=0=7"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize("name", ["_ffi.c", "module.so", "module.pyc"])
def test_generated_files_are_not_sources(tmp_path, name):
    """What a build leaves behind neither changes the hash nor enters a wheel."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / name).touch()
    (tmp_path / "src" / "module.py").touch()
    assert [path.name for path in artifacts._sources(tmp_path)] == ["module.py"]


def test_missing_packages_are_named(monkeypatch):
    """An ordinary user is told everything that is missing and the one command that installs it."""
    monkeypatch.setattr(host.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(host.shutil, "which", lambda _program: "/usr/bin/apt-get")
    lacks = [host.Lack("there is no C compiler (cc)", "gcc libc6-dev"), host.Lack("no x", "x-dev")]
    with pytest.raises(host.HostError) as caught:
        host.require(lacks)
    assert str(caught.value) == (
        "there is no C compiler (cc), no x: run `sudo apt-get install gcc libc6-dev x-dev`"
    )


def test_goal_lines():
    """A goal line ends with its verdict; most goals are upper bounds, some are lower ones."""
    assert str(harness.Goal("boot", 1.25, 1.5)) == "goal boot 1.25 1.5 ok"
    assert str(harness.Goal("boot", 2.0, 1.5)) == "goal boot 2 1.5 short"
    assert str(harness.Goal("rate", 90.0, 100.0, at_least=True)) == "goal rate 90 100 short"


def test_runs_are_interleaved(capsys):
    """Candidates take turns, warm-up rounds do not count, medians are compared."""
    order, values = [], iter(range(100))
    candidates = [
        harness.Candidate(name, lambda name=name: order.append(name) or {"t": next(values)})
        for name in ("ours", "anchor")
    ]
    results = harness.interleave(candidates, rounds=3)
    assert order == ["ours", "anchor"] * 4
    assert results.samples == {"ours": {"t": [2, 4, 6]}, "anchor": {"t": [3, 5, 7]}}
    assert results.ratio("t", "ours", "anchor") == 4 / 5
    assert "run 3/3: anchor" in capsys.readouterr().out
