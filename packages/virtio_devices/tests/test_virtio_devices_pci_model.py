"""A PCI function against a model of its rules, and against a guest that writes anywhere."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from virtio_devices import DriverViolation, PciTransport, Rng
from virtio_devices.testing import InterruptCounter, InterruptPin, PciDriver, SplitDriver
from vm_memory import GuestMemory

VECTORS = 3
vectors = st.integers(0, VECTORS - 1)
NO_VECTOR = 0xFFFF


class Idle:
    """A device of two queues whose events a test raises."""

    device_id = 42
    features = 0
    queue_sizes = (8, 8)
    config = b""

    def __init__(self):
        self.readiness = {}
        self.interrupt = None

    def write_config(self, offset, data):
        pass

    def accept_features(self, _features):
        return True

    def activate(self, _memory, _queues, interrupt):
        self.interrupt = interrupt

    def process_queue(self, _index):
        return False

    def reset(self):
        pass


class Interrupts(RuleBasedStateMachine):
    """Which messages go out, what stays pending, when the pin is up: for any order of events."""

    @initialize()
    def begin(self):
        self.memory = GuestMemory.from_ranges([(0, 0x10000)])
        self.device = Idle()
        self.sent = [InterruptCounter() for _ in range(VECTORS)]
        self.pin = InterruptPin()
        self.transport = PciTransport(
            self.device, self.memory, vectors=self.sent, line=self.pin, kick=lambda _index: None
        )
        self.driver = PciDriver(self.transport)
        self.enabled = self.function_mask = self.disabled = False
        self.masked = [True] * VECTORS
        self.messages = [(0, 0)] * VECTORS
        self.pending = set()
        self.counts = [0] * VECTORS
        self.start()

    def teardown(self):
        if hasattr(self, "memory"):
            self.memory.close()

    def start(self):
        self.driver.negotiate()
        self.driver.add_queue(0, SplitDriver(self.memory, 0x1000, 8, span=0x1000))
        self.driver.start()
        self.isr = 0
        self.mapped = [NO_VECTOR, NO_VECTOR]  # queue 0, configuration

    def settle(self):
        for vector in sorted(self.pending):
            if self.enabled and not self.function_mask and not self.masked[vector]:
                self.pending.discard(vector)
                self.counts[vector] += 1

    def signal(self, vector):
        if self.enabled and vector < VECTORS:
            self.pending.add(vector)
            self.settle()

    @rule(enabled=st.booleans(), masked=st.booleans())
    def write_message_control(self, enabled, masked):
        value = enabled << 15 | masked << 14
        self.driver.write_config_space(self.driver.msix + 2, value, 2)
        self.enabled, self.function_mask = enabled, masked
        self.settle()

    @rule(vector=vectors, masked=st.booleans())
    def write_mask(self, vector, masked):
        self.driver.write(0x4000 + 16 * vector + 12, int(masked))
        self.masked[vector] = masked
        self.settle()

    @rule(
        vector=vectors, address=st.integers(0, 2**64 - 1), data=st.integers(0, 2**32 - 1),
        masked=st.booleans(),
    )  # fmt: skip
    def write_entry(self, vector, address, data, masked):
        """A driver masks, writes and unmasks."""
        self.driver.set_vector(vector, address, data, masked=masked)
        self.messages[vector] = (address, data)
        self.masked[vector] = masked
        self.settle()

    @rule(event=st.sampled_from([0, 1]), vector=st.sampled_from([0, 1, 2, VECTORS, NO_VECTOR]))
    def map_event(self, event, vector):
        self.driver.write_common(0x16, 0, 2)
        self.driver.write_common(0x10 if event else 0x1A, vector, 2)
        self.mapped[event] = vector if vector < VECTORS else NO_VECTOR

    @rule()
    def use_a_buffer(self):
        self.device.interrupt.used_buffer(0)
        if self.enabled:
            self.signal(self.mapped[0])
        else:
            self.isr |= 1

    @rule()
    def change_the_configuration(self):
        self.device.interrupt.config_change()
        self.isr |= 2
        self.signal(self.mapped[1])

    @rule()
    def read_isr(self):
        assert self.driver.acknowledge() == self.isr
        self.isr = 0

    @rule(disabled=st.booleans())
    def write_command(self, disabled):
        self.driver.write_config_space(4, disabled << 10, 2)
        self.disabled = disabled

    @rule()
    def reset(self):
        self.driver.write_status(0)
        self.pending.clear()
        self.start()

    @invariant()
    def agrees(self):
        if not hasattr(self, "driver"):
            return
        assert [vector.count for vector in self.sent] == self.counts
        assert self.driver.read(0x5000, 8) == sum(1 << vector for vector in self.pending)
        assert self.pin.active == (bool(self.isr) and not self.enabled and not self.disabled)
        shown = bool(self.driver.config(6, 2) & 8)
        assert shown == (bool(self.isr) and not self.enabled)
        open_vectors = [
            vector
            for vector in range(VECTORS)
            if self.enabled and not self.function_mask and not self.masked[vector]
        ]
        assert all(self.sent[vector].message == self.messages[vector] for vector in open_vectors)
        assert self.driver.common(0x1A, 2) == self.mapped[0]
        assert self.driver.common(0x10, 2) == self.mapped[1]


TestInterrupts = Interrupts.TestCase
TestInterrupts.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# A hostile guest

widths = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 16])
values = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 16), st.sampled_from([0x1000, 0xFFFF]))
bar_offsets = st.one_of(
    st.integers(0, 0x40),
    st.sampled_from([0x14, 0x16, 0x18, 0x1C, 0x20, 0x28, 0x30]),
    st.integers(0x0FF8, 0x1008),
    st.integers(0x1FF8, 0x2010),
    st.integers(0x3FF8, 0x4040),
    st.integers(0x4FF0, 0x5028),
    st.integers(0x5FF8, 0x6010),
    st.integers(0x7FF0, 0x7FFF),
    st.integers(0, 0x7FFF),
)
config_offsets = st.one_of(st.integers(0, 0xFF), st.integers(0xF8, 0xFFF), st.integers(0x40, 0xC0))
accesses = st.one_of(
    st.tuples(st.sampled_from(["read", "write"]), bar_offsets, widths, values),
    st.tuples(st.sampled_from(["read_config", "write_config"]), config_offsets, widths, values),
)
BRING_UP = [
    ("write", 0x14, 1, 1), ("write", 0x14, 1, 3), ("write", 0x08, 4, 1), ("write", 0x0C, 4, 1),
    ("write", 0x14, 1, 11), ("write", 0x20, 8, 0x1000), ("write", 0x28, 8, 0x1080),
    ("write", 0x30, 8, 0x1100), ("write", 0x18, 2, 8), ("write", 0x1C, 2, 1),
    ("write", 0x14, 1, 15), ("write_config", 0x40, 4, 0x8000_0000), ("write", 0x6000, 2, 0),
]  # fmt: skip
IDENTITY = b"\xf4\x1a\x44\x10"


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(BRING_UP)),
    st.lists(accesses, max_size=30),
    st.binary(min_size=0x100, max_size=0x100),
)
def test_random_accesses_do_no_harm(steps, after, ring):
    """Configuration space and BAR, any width at any offset: no exception, no access outside."""
    legal = {0, 1, 3, 11, 15}
    with GuestMemory.from_ranges([(0, 0x20000)]) as memory:
        memory.write(0x1080, ring)
        reports, kicks = [], []
        transport = PciTransport(
            Rng(bytes),
            memory,
            vectors=[InterruptCounter(), InterruptCounter()],
            line=InterruptPin(),
            kick=kicks.append,
            report=reports.append,
        )
        for kind, offset, width, value in [*BRING_UP[:steps], *after]:
            data = bytearray((value & ((1 << 8 * width) - 1)).to_bytes(width, "little"))
            getattr(transport, kind)(offset, memoryview(data))
            assert len(data) == width
            while kicks:
                transport.process_queue(kicks.pop())
            assert transport.status & ~0xC0 in legal
            assert all(size == 0x8000 for _, size in transport.memory_ranges().values())
        header = bytearray(4)
        transport.read_config(0, memoryview(header))
        assert header == IDENTITY
        assert all(isinstance(report, DriverViolation) for report in reports)
        transport.reset()
        assert transport.status == 0


@given(st.integers(0, 0x3FFF), widths, values, st.integers(1, 256))
def test_the_table_keeps_its_size(offset, width, value, count):
    """A write beyond the table's end, or over it, changes no size and no neighbour."""
    with GuestMemory.from_ranges([(0, 0x1000)]) as memory:
        transport = PciTransport(
            Idle(),
            memory,
            vectors=[InterruptCounter() for _ in range(count)],
            line=InterruptPin(),
            kick=lambda _index: None,
        )
        data = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        transport.write(0x4000 + offset, memoryview(bytearray(data)))
        whole = bytearray(0x1000)
        transport.read(0x4000, memoryview(whole))
        assert not any(whole[16 * count :])
        pending = bytearray(0x20)
        transport.read(0x5000, memoryview(pending))
        assert not any(pending)
