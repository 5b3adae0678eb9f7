"""The serial port against a model: what the registers show, and that no interrupt gets lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vmm_reference.legacy.serial import Serial

BREAK = object()


class Model:
    """A 16550A over plain lists and dictionaries."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.fifo = []
        self.sent = b""
        self.registers = {"ier": 0, "lcr": 3, "mcr": 0, "scr": 0, "dll": 12, "dlm": 0}
        self.fifo_on = False
        self.level = 1
        self.thre = self.overrun = False
        self.deltas = 0

    def __getattr__(self, name):
        return self.registers[name]

    @property
    def looped(self):
        return bool(self.mcr & 16)

    @property
    def lines(self):
        if not self.looped:
            return {"cts": 1, "dsr": 1, "ri": 0, "dcd": 1}
        bit = {n: self.mcr >> n & 1 for n in range(4)}
        return {"cts": bit[1], "dsr": bit[0], "ri": bit[2], "dcd": bit[3]}

    @property
    def sources(self):
        """What would interrupt now, most urgent first."""
        found = []
        if self.ier & 4 and (self.overrun or (self.fifo and self.fifo[0] is BREAK)):
            found.append(6)
        if self.ier & 1 and self.fifo:
            found.append(4 if not self.fifo_on or len(self.fifo) >= self.level else 12)
        if self.ier & 2 and self.thre:
            found.append(2)
        if self.ier & 8 and self.deltas:
            found.append(0)
        return found

    def read(self, offset):
        if self.lcr & 0x80 and offset < 2:
            return self.dlm if offset else self.dll
        return getattr(self, f"read_{offset}")()

    def read_0(self):
        if not self.fifo:
            return 0
        head = self.fifo.pop(0)
        return 0 if head is BREAK else head

    def read_1(self):
        return self.ier

    def read_2(self):
        source = self.sources[0] if self.sources else 1
        if source == 2:
            self.thre = False
        return source | (0xC0 if self.fifo_on else 0)

    def read_3(self):
        return self.lcr

    def read_4(self):
        return self.mcr

    def read_5(self):
        value = 0x60 + (1 if self.fifo else 0) + (2 if self.overrun else 0)
        if self.fifo_on and BREAK in self.fifo:
            value += 0x80
        if self.fifo and self.fifo[0] is BREAK:
            value += 0x10
            self.fifo[0] = 0
        self.overrun = False
        return value

    def read_6(self):
        lines = self.lines
        value = self.deltas + sum(
            lines[n] << i for i, n in enumerate(("cts", "dsr", "ri", "dcd"), 4)
        )
        self.deltas = 0
        return value

    def read_7(self):
        return self.scr

    def write(self, offset, value):
        if self.lcr & 0x80 and offset < 2:
            self.registers["dlm" if offset else "dll"] = value
        elif offset < 5 or offset == 7:
            getattr(self, f"write_{offset}")(value)

    def write_0(self, value):
        if not self.looped:
            self.sent += bytes((value,))
        elif len(self.fifo) < (16 if self.fifo_on else 1):
            self.fifo.append(value)
        else:
            self.overrun = True
        if self.ier & 2:
            self.thre = True

    def write_1(self, value):
        if value & 2 and not self.ier & 2:
            self.thre = True
        self.registers["ier"] = value & 15

    def write_2(self, value):
        if bool(value & 1) != self.fifo_on or value & 2:
            self.fifo = []
        self.fifo_on = bool(value & 1)
        if self.fifo_on:
            self.level = (1, 4, 8, 14)[value >> 6]

    def write_3(self, value):
        self.registers["lcr"] = value

    def write_4(self, value):
        before = self.lines
        self.registers["mcr"] = value & 31
        after = self.lines
        for bit, line in enumerate(("cts", "dsr", "ri", "dcd")):
            if before[line] != after[line] and (line != "ri" or before["ri"]):
                self.deltas |= 1 << bit

    def write_7(self, value):
        self.registers["scr"] = value

    def receive(self, items):
        if self.looped:
            return 0
        taken = list(items)[: max(0, self.capacity - len(self.fifo))]
        self.fifo += taken
        return len(taken)


interesting = st.one_of(
    st.sampled_from([0, 1, 2, 3, 0x80, 0x10, 0x1F, 0x0F, 0xC1]), st.integers(0, 255)
)


class SerialMachine(RuleBasedStateMachine):
    """Does the same to the port and to the model."""

    @initialize(capacity=st.sampled_from([1, 5, 64]), batch=st.sampled_from([1, 4, 100]))
    def create(self, capacity, batch):
        self.model = Model(capacity)
        self.output = b""
        self.edges = 0
        self.rooms = 0
        self.refused = False
        self.serial = Serial(self, self.take, on_room=self.on_room, batch=batch, capacity=capacity)
        self.pending_before = []

    def trigger(self):
        self.edges += 1

    def take(self, chunk):
        self.output += chunk

    def on_room(self):
        self.rooms += 1
        assert self.refused, "told of room without having been refused"
        self.refused = False

    def before(self):
        self.edges = 0
        self.pending_before = self.model.sources

    def after(self):
        """A line that was quiet and now is not must have had an edge."""
        if self.model.sources and not self.pending_before:
            assert self.edges, "an interrupt was lost"

    @rule(offset=st.integers(0, 7), value=interesting)
    def write_anything(self, offset, value):
        self.write(offset, value)

    @rule(enables=st.integers(0, 15), mcr=st.sampled_from([0, 0, 0x0B, 0x1B]))
    def set_up(self, enables, mcr):
        """As a driver opens the port: without it, most runs would sit behind DLAB."""
        self.write(3, 0x03)
        self.write(4, mcr)
        self.write(1, enables)

    @rule(data=st.binary(min_size=1, max_size=3))
    def transmit(self, data):
        for byte in data:
            self.write(0, byte)

    @rule(offsets=st.sampled_from([(2,), (2, 2), (5, 5), (2, 5, 2), (5, 0), (2, 0, 2), (6, 6)]))
    def serve(self, offsets):
        """As an interrupt handler reads."""
        for offset in offsets:
            self.read(offset)

    @rule(offset=st.integers(0, 7))
    def read_anything(self, offset):
        self.read(offset)

    def write(self, offset, value):
        self.before()
        self.model.write(offset, value)
        self.serial.write(offset, memoryview(bytes((value,))))
        self.after()

    def read(self, offset):
        self.before()
        data = memoryview(bytearray(1))
        self.serial.read(offset, data)
        assert data[0] == self.model.read(offset)
        self.after()

    @rule(data=st.binary(max_size=20))
    def receive(self, data):
        self.before()
        taken = self.serial.receive(data)
        assert taken == self.model.receive(data)
        self.refused = self.refused or taken < len(data)
        self.after()

    @rule()
    def receive_break(self):
        self.before()
        assert self.serial.receive_break() == bool(self.model.receive([BREAK]))
        self.after()

    @rule()
    def flush(self):
        self.serial.flush()
        assert self.output == self.model.sent

    @invariant()
    def output_is_what_was_sent_so_far(self):
        assert self.model.sent.startswith(self.output)

    @invariant()
    def whoever_was_refused_hears_of_an_empty_fifo(self):
        if not self.model.fifo and not self.model.looped:
            assert not self.refused


TestSerialMachine = SerialMachine.TestCase
TestSerialMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
