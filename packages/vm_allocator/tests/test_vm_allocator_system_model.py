"""Interrupt lines and whole systems against models with one word per line and per address."""

from __future__ import annotations

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vm_allocator import (
    RAM,
    Allocation,
    AlreadyReleased,
    ExactMatch,
    FirstMatch,
    GsiAllocator,
    IdInUse,
    IdOutOfRange,
    LastMatch,
    NeverAllocated,
    NoFreeId,
    NoFreeRange,
    NotAllocated,
    NotMmio,
    Overlap,
    PartialFree,
    Range,
    SystemAllocator,
)

FIRST_PIN, LAST_PIN, LAST_GSI = 3, 7, 11
#: Windows of a few addresses; memory lies below them and over the end of the last one.
WINDOWS = {
    "platform_mmio": range(16, 32),
    "pci_mmio32": range(32, 48),
    "pci_mmio64": range(52, 68),
}
MEMORY = [(0, 16), (64, 8)]
END = 80


class GsiModel(RuleBasedStateMachine):
    """One word per line."""

    def __init__(self):
        super().__init__()
        self.gsis = GsiAllocator(FIRST_PIN, LAST_PIN, LAST_GSI)
        self.state = dict.fromkeys(range(LAST_GSI + 1), "never")

    @rule(kind=st.sampled_from(["pin", "msi"]))
    def allocate(self, kind):
        lines = {"pin": range(FIRST_PIN, LAST_PIN + 1), "msi": range(LAST_PIN + 1, LAST_GSI + 1)}
        free = [line for line in lines[kind] if self.state[line] != "used"]
        take = getattr(self.gsis, f"allocate_{kind}")
        if not free:
            with pytest.raises(NoFreeId):
                take()
            return
        assert take() == free[0]
        self.state[free[0]] = "used"

    @rule(line=st.integers(-1, LAST_GSI + 1))
    def reserve(self, line):
        state = self.state.get(line)
        if state is None or state == "used":
            with pytest.raises(IdOutOfRange if state is None else IdInUse):
                self.gsis.reserve(line)
            return
        self.gsis.reserve(line)
        self.state[line] = "used"

    @rule(line=st.integers(-1, LAST_GSI + 1))
    def free(self, line):
        errors = {None: IdOutOfRange, "never": NeverAllocated, "released": AlreadyReleased}
        state = self.state.get(line)
        if state != "used":
            with pytest.raises(errors[state]):
                self.gsis.free(line)
            return
        self.gsis.free(line)
        self.state[line] = "released"

    @rule(duplicate=st.sampled_from([copy.copy, copy.deepcopy]))
    def copy(self, duplicate):
        """The copy takes the place of what it is a copy of."""
        duplicated = duplicate(self.gsis)
        assert duplicated == self.gsis
        self.gsis = duplicated

    @invariant()
    def lines_agree(self):
        used = tuple(line for line, state in self.state.items() if state == "used")
        assert self.gsis.used() == used


class SystemModel(RuleBasedStateMachine):
    """One cell per address, with what it is part of: (range, owner, where it came from)."""

    def __init__(self):
        super().__init__()
        windows = {name: Range(one.start, one.stop - 1) for name, one in WINDOWS.items()}
        self.system = SystemAllocator(MEMORY, **windows)
        self.cells = dict.fromkeys(range(END))
        for start, size in MEMORY:
            self.take(Range.sized(start, size), RAM, "memory")

    def take(self, taken, owner, origin):
        for address in range(taken.start, taken.end + 1):
            self.cells[address] = (taken, owner, origin)

    def live(self):
        """What is in use, in address order."""
        return list(dict.fromkeys(cell for cell in self.cells.values() if cell))

    def is_free(self, addresses):
        return all(self.cells[one] is None for one in addresses)

    @rule(
        kind=st.sampled_from(sorted(WINDOWS)),
        size=st.integers(1, 9),
        alignment=st.sampled_from([1, 2, 4, 8]),
        policy=st.sampled_from([FirstMatch, LastMatch]),
    )
    def allocate(self, kind, size, alignment, policy):
        window = WINDOWS[kind]
        starts = [
            one
            for one in window[: len(window) - size + 1]
            if one % alignment == 0 and self.is_free(range(one, one + size))
        ]
        call = getattr(self.system, f"allocate_{kind}")
        if not starts:
            with pytest.raises(NoFreeRange):
                call(size, alignment, policy)
            return
        taken = call(size, alignment, policy, owner=kind)
        assert taken == Range.sized(starts[0 if policy is FirstMatch else -1], size)
        self.take(taken, kind, kind)

    @rule(start=st.integers(0, END - 10), size=st.integers(1, 9))
    def reserve(self, start, size):
        """A fixed device, in a window or beside all."""
        fixed = Range.sized(start, size)
        if not self.is_free(range(start, start + size)):
            with pytest.raises(Overlap):
                self.system.physical.allocate(size, policy=ExactMatch(start))
            return
        self.system.physical.reserve(fixed, "fixed")
        self.take(fixed, "fixed", "fixed")

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def free(self, data):
        """Anything in use: what was allocated goes, so does a fixed device inside a window."""
        taken, _, origin = data.draw(st.sampled_from(self.live()))
        inside = any(one.start <= taken.start and taken.end < one.stop for one in WINDOWS.values())
        if origin == "memory" or not inside:
            with pytest.raises(NotMmio) as caught:
                self.system.free_mmio(taken)
            assert (caught.value.memory is None) == (origin != "memory")
            return
        self.system.free_mmio(taken)
        for address in range(taken.start, taken.end + 1):
            self.cells[address] = None

    @rule(start=st.integers(0, END - 10), size=st.integers(1, 9))
    def free_what_is_not_a_range_in_use(self, start, size):
        wrong = Range.sized(start, size)
        if wrong in {taken for taken, _, _ in self.live()}:
            return
        with pytest.raises((NotMmio, NotAllocated, PartialFree)):
            self.system.free_mmio(wrong)

    @rule(duplicate=st.sampled_from([copy.copy, copy.deepcopy]))
    def copy(self, duplicate):
        """The copy takes the place of what it is a copy of."""
        duplicated = duplicate(self.system)
        assert duplicated == self.system
        self.system = duplicated

    @invariant()
    def the_guest_is_told_the_truth(self):
        told = self.system.platform_map()
        live = self.live()
        assert told.ram == tuple(taken for taken, _, origin in live if origin == "memory")
        devices = (Allocation(taken, owner) for taken, owner, _ in live if owner != RAM)
        assert told.devices == tuple(devices)
        for kind in ("pci_mmio32", "pci_mmio64"):
            decoded = [a for one in getattr(told, kind) for a in range(one.start, one.end + 1)]
            free_or_bar = (None, "pci_mmio32", "pci_mmio64")
            origins = {a: self.cells[a] and self.cells[a][2] for a in WINDOWS[kind]}
            assert decoded == [a for a, origin in origins.items() if origin in free_or_bar]


TestGsiModel = GsiModel.TestCase
TestGsiModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSystemModel = SystemModel.TestCase
TestSystemModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
