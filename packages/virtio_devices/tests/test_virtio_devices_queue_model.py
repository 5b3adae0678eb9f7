"""Both formats of rings against one model: lists, and the rule about events, entry by entry."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from virtio_devices import PackedQueue, SplitQueue, VirtioUsageError
from virtio_devices.testing import PackedDriver, SplitDriver
from vm_memory import GuestMemory

buffers = st.lists(st.binary(max_size=5), max_size=3)
rooms = st.lists(st.integers(0, 5), max_size=3)


class Announcements:
    """What one side told the other since it was last asked whether to notify.

    Entries are counted from the beginning of time. A packed ring shows an event as an index and
    a wrap counter, from which nothing but the present lap and the one before can be told: there
    the answer may also be a notification too many, and never one too few.
    """

    def __init__(self, lap):
        self.lap = lap
        self.passed = []
        self.total = 0
        self.event = 0

    def add(self, entries):
        self.passed += range(self.total, self.total + entries)
        self.total += entries

    def check(self, notified):
        if self.event in self.passed:
            assert notified
        elif not self.passed or self.lap is None or self.is_clear():
            assert not notified
        self.passed.clear()

    def is_clear(self):
        laps_ago = self.total // self.lap - self.event // self.lap
        return len(self.passed) < self.lap and laps_ago in (0, 1)


class QueueModel(RuleBasedStateMachine):
    """A driver and a device that keep the rules, and what each must see of the other."""

    make_queue = make_driver = None
    sizes = ()

    @initialize(data=st.data(), event_idx=st.booleans())
    def start(self, data, event_idx):
        size = data.draw(st.sampled_from(self.sizes))
        self.memory = GuestMemory.from_ranges([(0, 0x20000)])
        self.size = size
        self.event_idx = event_idx
        self.packed = self.make_driver is PackedDriver
        self.driver = self.make_driver(self.memory, 0x1000, size, event_idx=event_idx)
        self.queue = self.make_queue(
            self.memory, self.driver.layout, event_idx=event_idx, indirect=True
        )
        self.available = []  # (head, readable bytes, room) as the device must find them
        self.held = []  # (chain, room)
        self.taken = []  # every chain, as long as it can matter in which order
        self.contents = {}  # readable bytes by head
        self.returned = []  # (head, data) as the driver must find them
        self.free = size
        self.cost = {}  # descriptors by head
        self.used = Announcements(size if self.packed else None)
        self.added = Announcements(size if self.packed else None)
        self.driver_listens = self.device_listens = True
        if self.packed and event_idx:  # at first its event structures say "any"
            self.driver.enable_interrupts()
            self.queue.enable_notification()
        if not self.packed and data.draw(st.booleans()):
            self.wind_on(0x10000 - 2)

    def wind_on(self, index):
        """All four free-running indices as they are after that many chains."""
        state = self.queue.state()
        state.position = index
        self.queue = self.make_queue.restore(self.memory, state)
        self.driver._avail = self.driver._used = index
        self.memory.store(self.driver.layout.avail_idx, index, 2)
        self.memory.store(self.driver.layout.used_idx, index, 2)
        self.used.total = self.added.total = index
        self.used.event = self.added.event = 0x10000  # both fields are 0: passed when they wrap

    def teardown(self):
        if hasattr(self, "memory"):
            self.held.clear()
            self.taken.clear()
            self.memory.close()

    def entries(self, heads):
        """How many entries of the rings these chains take."""
        return sum(self.cost[head] if self.packed else 1 for head in heads)

    @rule(readable=buffers, writable=rooms, indirect=st.booleans())
    def add(self, readable, writable, indirect):
        count = len(readable) + len(writable)
        needed = 1 if indirect else count
        if not count or needed > self.free:
            with pytest.raises(VirtioUsageError):
                self.driver.add(readable, writable, indirect=indirect)
            return
        if count > self.size:
            return  # forbidden to a driver; the hostile tests do it
        head = self.driver.add(readable, writable, indirect=indirect)
        self.free -= needed
        self.cost[head] = needed
        self.available.append((head, b"".join(readable), sum(writable)))
        self.added.add(self.entries([head]))

    @rule()
    def pop(self):
        self.take(self.queue.pop())

    @rule(limit=st.integers(0, 4))
    def pop_batch(self, limit):
        expected = min(limit, len(self.available))
        chains = self.queue.pop_batch(limit)
        assert len(chains) == expected
        for chain in chains:
            self.take(chain)

    def take(self, chain):
        if not self.available:
            assert chain is None
            return
        head, content, room = self.available.pop(0)
        assert (chain.head, chain.writer.size) == (head, room)
        assert chain.reader.read(chain.reader.size) == content
        self.held.append((chain, room))
        self.taken.append(chain)
        self.contents[head] = content

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data):
        index = data.draw(st.integers(0, len(self.held) - 1))
        chain, content = self.fill(index, data)
        self.queue.add_used(chain, len(content))

    @rule(data=st.data())
    def give_back_batch(self, data):
        batch = []
        for _ in range(data.draw(st.integers(0, len(self.held)))):
            chain, content = self.fill(data.draw(st.integers(0, len(self.held) - 1)), data)
            batch.append((chain, len(content)))
        self.queue.add_used_batch(batch)

    def fill(self, index, data):
        chain, room = self.held.pop(index)
        content = data.draw(st.binary(max_size=room))
        chain.writer.write(content)
        self.returned.append((chain.head, content))
        self.used.add(self.entries([chain.head]))
        return chain, content

    @rule()
    def put_back_or_save(self):
        """The chains that were taken last go back; if that is all of them, so does the queue."""
        for chain in reversed([chain for chain, _room in self.held]):
            if self.taken[-1:] != [chain]:
                break
            self.queue.put_back(chain)
            self.taken.pop()
            _chain, room = self.held.pop()
            content = self.contents[chain.head]
            self.available.insert(0, (chain.head, content, room))
        if not self.held:
            self.queue = self.make_queue.restore(self.memory, self.queue.state())
            self.used.passed.clear()

    @rule()
    def collect(self):
        found = [(used.head, used.data) for used in self.driver.collect()]
        assert found == self.returned
        self.free += sum(self.cost.pop(head) for head, _data in found)
        self.returned.clear()

    @rule()
    def notify_driver(self):
        notified = self.queue.needs_notification()
        if self.event_idx and self.driver_listens:
            self.used.check(notified)
        else:
            assert notified == (bool(self.used.passed) and self.driver_listens)
            self.used.passed.clear()

    @rule()
    def notify_device(self):
        kicks = self.driver.needs_kick()
        if self.event_idx and self.device_listens:
            self.added.check(kicks)
        else:
            assert kicks == (bool(self.added.passed) and self.device_listens)
            self.added.passed.clear()

    @rule()
    def enable_kicks(self):
        assert self.queue.enable_notification() == bool(self.available)
        self.device_listens = True
        heads = [head for head, _content, _room in self.available]
        self.added.event = self.added.total - self.entries(heads)

    @rule()
    def disable_kicks(self):
        self.queue.disable_notification()
        # A split ring has no flag beside its event: it stays where it is.
        self.device_listens = self.event_idx and not self.packed

    def collected(self):
        return self.used.total - self.entries([head for head, _data in self.returned])

    @rule(after=st.integers(1, 3))
    def enable_interrupts(self, after):
        self.driver.enable_interrupts(after)
        self.driver_listens = True
        self.used.event = self.collected() + after - 1

    @rule()
    def disable_interrupts(self):
        self.driver.disable_interrupts()
        self.driver_listens = self.event_idx and not self.packed
        self.used.event = self.collected() - 1

    @rule()
    def in_flight(self):
        assert self.queue.in_flight == {chain.head for chain, _room in self.held}


class SplitModel(QueueModel):
    make_queue, make_driver, sizes = SplitQueue, SplitDriver, (1, 2, 4, 8)


class PackedModel(QueueModel):
    make_queue, make_driver, sizes = PackedQueue, PackedDriver, (1, 2, 3, 5, 8)


TestSplitModel = SplitModel.TestCase
TestPackedModel = PackedModel.TestCase
TestSplitModel.settings = TestPackedModel.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
