"""The split queue against a model: two lists and the rule about events, entry by entry."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from virtio_devices import SplitQueue, VirtioUsageError
from virtio_devices.testing import SplitDriver
from vm_memory import GuestMemory

buffers = st.lists(st.binary(max_size=5), max_size=3)
rooms = st.lists(st.integers(0, 5), max_size=3)


class QueueModel(RuleBasedStateMachine):
    """A driver and a device that keep the rules, and what each must see of the other."""

    @initialize(
        size=st.sampled_from([1, 2, 4, 8]), event_idx=st.booleans(), near_wrap=st.booleans()
    )
    def start(self, size, event_idx, near_wrap):
        self.memory = GuestMemory.from_ranges([(0, 0x20000)])
        self.size = size
        self.event_idx = event_idx
        self.driver = SplitDriver(self.memory, 0x1000, size, event_idx=event_idx)
        self.queue = SplitQueue(self.memory, self.driver.layout, event_idx=event_idx, indirect=True)
        self.available = []  # (head, readable bytes, room) as the device must find them
        self.held = []  # (chain, room)
        self.returned = []  # (head, data) as the driver must find them
        self.free = size
        self.cost = {}
        self.used_indices = []  # indices of elements written since the last notification
        self.avail_indices = []
        self.used_index = self.avail_index = 0
        self.used_event = self.avail_event = 0
        self.driver_listens = self.device_listens = True
        if near_wrap:
            self.wind_on(0x10000 - 2)

    def wind_on(self, index):
        """All four free-running indices as they are after that many chains."""
        self.queue._next_avail = self.queue._next_used = index
        self.driver._avail = self.driver._used = index
        self.memory.store(self.driver.layout.avail_idx, index, 2)
        self.memory.store(self.driver.layout.used_idx, index, 2)
        self.used_index = self.avail_index = index

    def teardown(self):
        if hasattr(self, "memory"):
            self.held.clear()
            self.memory.close()

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
        self.avail_indices.append(self.avail_index)
        self.avail_index = (self.avail_index + 1) & 0xFFFF

    @rule()
    def pop(self):
        chain = self.queue.pop()
        if not self.available:
            assert chain is None
            return
        head, content, room = self.available.pop(0)
        assert (chain.head, chain.writer.size) == (head, room)
        assert chain.reader.read(chain.reader.size) == content
        self.held.append((chain, room))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data):
        index = data.draw(st.integers(0, len(self.held) - 1))
        chain, room = self.held.pop(index)
        content = data.draw(st.binary(max_size=room))
        chain.writer.write(content)
        self.queue.add_used(chain, len(content))
        self.returned.append((chain.head, content))
        self.used_indices.append(self.used_index)
        self.used_index = (self.used_index + 1) & 0xFFFF

    @rule()
    def give_all_back_at_once(self):
        self.queue.add_used_batch([(chain, 0) for chain, _room in self.held])
        for chain, _room in self.held:
            self.returned.append((chain.head, b""))
            self.used_indices.append(self.used_index)
            self.used_index = (self.used_index + 1) & 0xFFFF
        self.held.clear()

    @rule()
    def collect(self):
        found = [(used.head, used.data) for used in self.driver.collect()]
        assert found == self.returned
        self.free += sum(self.cost.pop(head) for head, _data in found)
        self.returned.clear()

    @rule()
    def notify_driver(self):
        if self.event_idx:
            expected = self.used_event in self.used_indices
        else:
            expected = bool(self.used_indices) and self.driver_listens
        assert self.queue.needs_notification() == expected
        self.used_indices.clear()

    @rule()
    def notify_device(self):
        if self.event_idx:
            expected = self.avail_event in self.avail_indices
        else:
            expected = bool(self.avail_indices) and self.device_listens
        assert self.driver.needs_kick() == expected
        self.avail_indices.clear()

    @rule()
    def enable_kicks(self):
        assert self.queue.enable_notification() == bool(self.available)
        self.device_listens = True
        self.avail_event = (self.avail_index - len(self.available)) & 0xFFFF

    @rule()
    def disable_kicks(self):
        self.queue.disable_notification()
        self.device_listens = False

    @rule(after=st.integers(1, 3))
    def enable_interrupts(self, after):
        self.driver.enable_interrupts(after)
        self.driver_listens = True
        collected = self.used_index - len(self.returned)
        self.used_event = (collected + after - 1) & 0xFFFF

    @rule()
    def disable_interrupts(self):
        self.driver.disable_interrupts()
        self.driver_listens = False
        self.used_event = (self.used_index - len(self.returned) - 1) & 0xFFFF

    @rule()
    def in_flight(self):
        assert self.queue.in_flight == {chain.head for chain, _room in self.held}


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
