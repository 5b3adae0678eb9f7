"""The one form of a benchmark: ours and its anchor interleaved, a table, a JSON file, goal lines.

A candidate is a name and a function that does one run and returns its measures by name (seconds,
or whatever the benchmark says). Runs are interleaved (ours, anchor, ours, anchor, …), so a machine
that gets slower for a while slows both. Medians are compared, never single runs.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESULTS = Path(__file__).resolve().parents[1] / ".py-vmm" / "bench"

Measures = dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """One thing to measure: its name and a function that runs it once."""

    name: str
    run: Callable[[], Measures]


@dataclass(frozen=True)
class Goal:
    """What must hold in the end: `measured` at most (or, with `at_least`, at least) `target`."""

    name: str
    measured: float
    target: float
    at_least: bool = False

    def is_met(self) -> bool:
        """Whether the measured value is on the right side of the target."""
        if self.at_least:
            return self.measured >= self.target
        return self.measured <= self.target

    def __str__(self) -> str:
        verdict = "ok" if self.is_met() else "short"
        return f"goal {self.name} {self.measured:.4g} {self.target:.4g} {verdict}"


@dataclass(frozen=True)
class Results:
    """All runs of all candidates: samples[candidate][measure] is a list in order of the runs."""

    samples: Mapping[str, Mapping[str, Sequence[float]]]

    def median(self, candidate: str, measure: str) -> float:
        """The median of one measure of one candidate."""
        return statistics.median(self.samples[candidate][measure])

    def ratio(self, measure: str, ours: str, anchor: str) -> float:
        """Our median over the anchor's."""
        return self.median(ours, measure) / self.median(anchor, measure)

    def with_more(self, other: Results) -> Results:
        """These results and others: of other candidates, or other measures of the same ones."""
        names = [*self.samples, *(name for name in other.samples if name not in self.samples)]
        both = (self.samples, other.samples)
        return Results({name: {**both[0].get(name, {}), **both[1].get(name, {})} for name in names})


def interleave(candidates: Sequence[Candidate], *, rounds: int, warm_up: int = 1) -> Results:
    """Run every candidate `rounds` times in turn, after `warm_up` rounds that do not count."""
    samples: dict[str, dict[str, list[float]]] = {candidate.name: {} for candidate in candidates}
    for number in range(-warm_up, rounds):
        for candidate in candidates:
            measures = candidate.run()
            shown = ", ".join(f"{name} {value:.4g}" for name, value in measures.items())
            label = f"run {number + 1}/{rounds}" if number >= 0 else "warm-up"
            print(f"{label}: {candidate.name}: {shown}", flush=True)
            if number >= 0:
                for name, value in measures.items():
                    samples[candidate.name].setdefault(name, []).append(value)
    return Results(samples)


def report(name: str, results: Results, goals: Sequence[Goal], *, unit: str = "s") -> int:
    """Print the table and the goal lines, write the JSON file; return 0 whatever the goals say."""
    print(f"\n{'candidate':14} {'measure':18} {'median':>10} {'min':>10} {'max':>10} {unit}")
    for candidate, measures in results.samples.items():
        for measure, values in measures.items():
            row = (statistics.median(values), min(values), max(values))
            figures = " ".join(f"{value:10.4g}" for value in row)
            print(f"{candidate:14} {measure:18} {figures}")
    path = _write_json(name, results, goals, unit)
    print(f"\nall runs: {path}")
    for goal in goals:
        print(goal)
    return 0


def _write_json(name: str, results: Results, goals: Sequence[Goal], unit: str) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {
        "benchmark": name,
        "unit": unit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"python": platform.python_version(), "kernel": platform.release()},
        "samples": results.samples,
        "goals": [
            {
                "name": goal.name,
                "measured": goal.measured,
                "target": goal.target,
                "met": goal.is_met(),
            }
            for goal in goals
        ],
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
