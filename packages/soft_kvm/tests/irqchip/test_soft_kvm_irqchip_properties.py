"""The controllers against simple models, and under random calls."""

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

vectors = st.integers(0x10, 0xFF)
pins = st.sampled_from([1, 4, 9, 16, 23])
small_run = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Apic(RuleBasedStateMachine):
    """Keeps IRR, ISR, TPR and the IOAPIC's pins in Python sets beside the real chip."""

    def __init__(self, make_chip):
        super().__init__()
        self.chip = make_chip()
        self.chip.enable_lapic()
        self.chip.set_lapic(0x350, 0x10000)
        self.requested, self.serviced, self.tpr = set(), set(), 0
        self.entries, self.lines, self.waiting = {}, set(), set()

    def priority(self):
        return max(self.tpr >> 4, max(self.serviced, default=0) >> 4)

    def expected(self):
        best = max(self.requested, default=-1)
        return best if best >> 4 > self.priority() else -1

    def offer(self, pin):
        vector, level = self.entries.get(pin, (None, False))
        if vector is None or pin in self.waiting:
            return
        self.requested.add(vector)
        if level:
            self.waiting.add(pin)

    @rule(vector=vectors)
    def message(self, vector):
        level = any(v == vector and lvl for v, lvl in self.entries.values())
        if not level:  # an edge would take over the level's TMR bit
            assert self.chip.msi(vector) == 1
            self.requested.add(vector)

    @rule(vector=vectors)
    def self_ipi(self, vector):
        level = any(v == vector and lvl for v, lvl in self.entries.values())
        if not level:
            self.chip.set_lapic(0x300, 0x40000 | vector)
            self.requested.add(vector)

    @rule(tpr=st.integers(0, 0xFF))
    def task_priority(self, tpr):
        self.chip.set_lapic(0x80, tpr)
        self.tpr = tpr

    @rule(pin=pins, level=st.booleans())
    def open_pin(self, pin, level):
        if pin in self.entries:
            return
        vector = 0x11 + 9 * pin  # of its own, so that TMR is unambiguous
        if vector in self.requested | self.serviced:
            return
        self.chip.set_entry(pin, vector | level << 15)
        self.entries[pin] = vector, level
        if level and pin in self.lines:
            self.offer(pin)

    @rule(pin=pins, level=st.booleans())
    def line(self, pin, level):
        self.chip.gsi(pin, level)
        rising = level and pin not in self.lines
        (self.lines.add if level else self.lines.discard)(pin)
        if rising:
            self.offer(pin)

    @rule()
    def acknowledge(self):
        vector = self.expected()
        assert self.chip.acknowledge() == vector
        if vector >= 0:
            self.requested.remove(vector)
            self.serviced.add(vector)

    @rule()
    def end_of_interrupt(self):
        self.chip.set_lapic(0xB0, 0)
        if not self.serviced:
            return
        vector = max(self.serviced)
        self.serviced.remove(vector)
        for pin, entry in self.entries.items():
            if entry == (vector, True) and pin in self.waiting:
                self.waiting.remove(pin)
                if pin in self.lines:
                    self.offer(pin)

    @invariant()
    def agrees(self):
        assert self.chip.pending() == (self.expected() >= 0)
        for base, model in ((0x100, self.serviced), (0x200, self.requested)):
            words = [self.chip.lapic(base + 0x10 * word) for word in range(8)]
            assert {32 * w + b for w in range(8) for b in range(32) if words[w] >> b & 1} == model
        remote = {pin for pin in self.entries if self.chip.entry(pin) & 0x4000}
        assert remote == self.waiting


def test_apic_follows_the_model(make_chip):
    """No vector is lost, repeated or out of order, whatever the sequence of calls."""
    run_state_machine_as_test(lambda: Apic(make_chip), settings=small_run)


class PicModel:
    """A fully nested 8259 pair; lines are 0-15, and line 2 in `stack` is a cascaded service."""

    def __init__(self):
        self.requests, self.stack, self.mask, self.cascade = set(), [], 0, False

    def first(self, order):
        """The line of one unit that asks, or None when a service comes first."""
        for line in order:
            if line in self.stack:
                return None
            asks = self.cascade if line == 2 else line in self.requests
            if asks and not self.mask >> line & 1:
                return line
        return None

    def settle(self):
        """The slave's request sets the master's latch, which only an acknowledge clears."""
        self.cascade = self.cascade or self.first(range(8, 16)) is not None

    def output(self):
        return self.first(range(8)) is not None

    def acknowledge(self):
        line = self.first(range(8))
        if line is None:
            return -1
        self.stack.append(line)
        if line == 2:
            self.cascade = False
            line = self.first(range(8, 16))
            if line is None:
                return 0x20 + 15
            self.stack.append(line)
        self.requests.remove(line)
        return 0x20 + line


lines = st.sampled_from([line for line in range(16) if line != 2])


@small_run
@given(
    calls=st.lists(
        st.one_of(
            st.tuples(st.just("pulse"), lines),
            st.tuples(st.just("mask"), st.integers(0, 0xFFFF)),
            st.tuples(st.just("acknowledge"), st.none()),
            st.tuples(st.just("end"), st.none()),
        ),
        max_size=60,
    )
)
def test_pic_follows_the_model(make_chip, calls):
    """Edges are served once each, in the order of the fully nested mode."""
    chip = make_chip()
    chip.start_pic()
    model = PicModel()
    for call, argument in calls:
        if call == "pulse":
            chip.pulse(argument)
            model.requests.add(argument)
        elif call == "mask":
            model.mask = argument & ~4
            chip.outb(0x21, model.mask & 0xFF)
            chip.outb(0xA1, model.mask >> 8)
        elif call == "acknowledge":
            assert chip.acknowledge() == model.acknowledge()
        elif model.stack:
            if model.stack.pop() >= 8:
                chip.outb(0xA0, 0x20)
                model.stack.pop()
                model.settle()
            chip.outb(0x20, 0x20)
        model.settle()
        assert chip.pending() == model.output()


addresses = st.one_of(
    st.builds(
        lambda slot, byte: 0xFEE00000 + 16 * slot + byte, st.integers(0, 0x41), st.integers(0, 15)
    ),
    st.builds(lambda slot: 0xFEE00000 + 16 * slot, st.integers(0, 0x3F)),
    st.sampled_from([0xFEC00000, 0xFEC00010, 0xFEC00040, 0xFEC000FF, 0xFEDFFFFF, 0xFEE00FFF]),
)
ports = st.one_of(
    st.sampled_from([0x20, 0x21, 0xA0, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x4D0, 0x4D1]),
    st.integers(0, 0xFFFF),
)
sizes = st.sampled_from([1, 2, 4, 8])
words = st.one_of(st.integers(0, 0xFF), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
pauses = st.one_of(st.integers(0, 10**6), st.integers(0, 10**15))


class Anything(RuleBasedStateMachine):
    """Calls everything with anything."""

    def __init__(self, make_chip):
        super().__init__()
        self.chip = make_chip(2, pit=True)

    @rule(address=addresses, size=sizes, value=words, cpu=st.integers(0, 2))
    def write(self, address, size, value, cpu):
        claimed = self.chip.write(address, value, cpu=cpu, size=size)
        assert claimed == (self.chip.read(address, cpu=cpu, size=size) is not None)

    @rule(address=addresses, size=sizes, cpu=st.integers(0, 1))
    def read(self, address, size, cpu):
        value = self.chip.read(address, cpu=cpu, size=size)
        assert value is None or value < 1 << 8 * size

    @rule(port=ports, size=sizes, value=st.integers(0, 2**32 - 1))
    def port(self, port, size, value):
        if self.chip.inb(port, size) is not None:
            self.chip.outb(port, value, size=size)

    @rule(gsi=st.integers(0, 30), level=st.booleans())
    def line(self, gsi, level):
        self.chip.gsi(gsi, level)

    @rule(data=st.integers(0, 0xFFFF), destination=st.integers(0, 0xFF), flags=st.integers(0, 15))
    def message(self, data, destination, flags):
        assert 0 <= self.chip.msi(data, destination, flags) <= 2

    @rule(pause=pauses)
    def time(self, pause):
        self.chip.advance(pause)
        assert self.chip.deadline is None or self.chip.deadline > 0

    @rule(cpu=st.integers(0, 1))
    def enable(self, cpu):
        self.chip.enable_lapic(cpu)

    @rule(cpu=st.integers(0, 1))
    def acknowledge(self, cpu):
        expected = self.chip.pending(cpu)
        assert (self.chip.acknowledge(cpu) >= 0) == expected

    @rule(cpu=st.integers(0, 1))
    def save_and_restore(self, cpu):
        raw = self.chip.get_state("lapic", cpu=cpu)
        assert self.chip.set_state("lapic", raw, cpu=cpu) == 0
        again = self.chip.get_state("lapic", cpu=cpu)
        assert again[:0x390] == raw[:0x390]


def test_random_calls_do_no_harm(make_chip):
    """Any access of any size at any time is answered, and pending always means acknowledgeable."""
    run_state_machine_as_test(lambda: Anything(make_chip), settings=small_run)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_calls_under_sanitizers(fuzzer, seed):
    """Half a million random calls find no undefined behaviour and break no invariant."""
    run = subprocess.run(
        [str(fuzzer), str(seed), "500000"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
