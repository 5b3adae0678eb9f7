"""Every fuzz target takes its first inputs, without a fuzzer, so that none of them rots."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from virtio_devices import Rng

FUZZ = Path(__file__).resolve().parent / "fuzz"
TARGETS = sorted(path.stem for path in FUZZ.glob("[!_]*.py"))


@pytest.fixture
def load(monkeypatch):
    """Imports a module as the fuzzer's program does."""
    monkeypatch.syspath_prepend(FUZZ)
    return importlib.import_module


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_first_inputs(load, name):
    """What must not be is an exception; the inputs are the same each time."""
    target = load(name)
    for data in load("_script").first_inputs(target, 120):
        target.one_input(data)


class Raises(Rng):
    """Raises what is no declared error."""

    def process_queue(self, index):
        raise IndexError(index)


class NeverEnds(Rng):
    """Goes on as long as its queue has a size."""

    def process_queue(self, index):
        while abs(index + 1):
            pass


class StaysDead(Rng):
    """Does not come back from a reset."""

    def restart_queue(self, index, queue):
        pass

    def reset(self):
        super().reset()
        self.activate = lambda *_: None


@pytest.mark.parametrize(
    ("device", "error"),
    [(Raises, IndexError), (NeverEnds, AssertionError), (StaysDead, AssertionError)],
)
def test_a_device_that_breaks_a_rule_is_found(load, monkeypatch, device, error):
    """The rules can be broken, and somebody notices."""
    target = load("virtio_rng")
    monkeypatch.setattr(target, "Rng", device)
    with pytest.raises(error):
        target.one_input(b"")
