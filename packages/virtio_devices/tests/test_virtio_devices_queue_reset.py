"""A driver resets one queue alone and sets it up again (RING_RESET, virtio 1.2 §2.6.1)."""

from __future__ import annotations

import pytest

from virtio_devices import (
    DeviceFailed,
    DeviceStatus,
    DeviceViolation,
    Feature,
    InvalidQueueLayout,
    QueueSetupViolation,
    Rng,
)
from virtio_devices.testing import MmioDriver, SplitDriver

RESET = int(Feature.RING_RESET)
NEEDS_RESET = DeviceStatus.DEVICE_NEEDS_RESET


@pytest.fixture
def started(memory, machine, ring):
    """An entropy device with a queue in operation, RING_RESET negotiated."""
    started = machine(Rng(bytes))
    accepted = started.driver.negotiate(RESET | ring.feature)
    assert accepted & RESET
    started.queue = ring.make_driver(memory, 0x1000, 8, span=0x4000)
    started.driver.add_queue(0, started.queue)
    started.driver.start()
    return started


def ask(machine):
    machine.queue.add(writable=[4])
    machine.driver.notify(0)
    machine.run()
    return len(machine.queue.collect())


def test_a_queue_goes_on_elsewhere(memory, ring, started):
    """Another place, another size, from the beginning."""
    assert ask(started) == 1
    for place, size in ((0x8000, 4), (0xC000, 8)):
        started.driver.reset_queue(0)
        started.queue = ring.make_driver(memory, place, size, span=0x4000)
        started.driver.add_queue(0, started.queue)
        assert ask(started) == 1
    assert started.transport.failure is None
    assert started.reports == []


def test_a_reset_queue_is_left_alone(memory, started):
    """Its memory is the driver's again, and it notifies nobody (§2.6.1.1.1)."""
    started.queue.add(writable=[4])
    before = memory.read(0x1000, 0x4000)
    started.driver.reset_queue(0)
    started.kicks.append(0)
    started.run()
    started.driver.notify(0)
    assert started.kicks == []
    assert memory.read(0x1000, 0x4000) == before
    assert started.interrupt.count == 0


class Recorder:
    """A device that records what happens to its queues."""

    device_id, features, queue_sizes, config, readiness = 42, 0, (8, 8), b"", {}

    def __init__(self):
        self.queues = {}
        self.failure = None

    def accept_features(self, _features):
        return True

    def write_config(self, offset, data):
        """There is none."""

    def activate(self, _memory, queues, interrupt):
        self.queues, self.interrupt = dict(queues), interrupt

    def process_queue(self, _index):
        return False

    def reset(self):
        self.queues = {}

    def reset_queue(self, index):
        assert self.queues.pop(index).pop() is None

    def restart_queue(self, index, queue):
        if self.failure:
            raise self.failure
        self.queues[index] = queue


@pytest.fixture
def recorded(memory, machine):
    """A Recorder with both queues in operation."""
    recorded = machine(Recorder())
    recorded.device = recorded.transport.device
    recorded.driver.negotiate(RESET)
    for index in (0, 1):
        recorded.driver.add_queue(index, SplitDriver(memory, 0x1000 + 0x1000 * index, 4))
    recorded.driver.start()
    return recorded


def test_the_other_queues_go_on(recorded):
    """The device forgets one queue, which is stopped before it hears of it."""
    other = recorded.device.queues[1]
    recorded.driver.reset_queue(0)
    assert recorded.device.queues == {1: other}
    recorded.device.interrupt.used_buffer(1)
    assert recorded.interrupt.count == 1


def test_a_late_worker_disturbs_nobody(memory, recorded):
    """A device that signals a queue after its reset signals nothing, until it is set up again."""
    recorded.driver.reset_queue(0)
    recorded.device.interrupt.used_buffer(0)
    assert recorded.interrupt.count == 0
    recorded.driver.add_queue(0, SplitDriver(memory, 0x4000, 4))
    recorded.device.interrupt.used_buffer(0)
    assert recorded.interrupt.count == 1


def test_the_old_queue_stays_stopped(memory, recorded):
    """What a worker still holds of it goes nowhere."""
    driver = SplitDriver(memory, 0x1000, 4)
    driver.add(writable=[4])
    old = recorded.device.queues[0]
    chain = old.pop()
    recorded.driver.reset_queue(0)
    recorded.driver.add_queue(0, SplitDriver(memory, 0x1000, 4))
    before = memory.read(0x1000, 0x1000)
    old.add_used(chain, 4)
    assert memory.read(0x1000, 0x1000) == before
    assert recorded.device.queues[0] is not old


def test_impossible_rings_at_restart_become_needs_reset(memory, recorded):
    """As they do at activation."""
    recorded.driver.reset_queue(0)
    driver = SplitDriver(memory, 0x4000, 4)
    driver.layout.used_ring = 0x7FFF_FFFC
    recorded.driver.add_queue(0, driver)
    assert recorded.driver.status & NEEDS_RESET
    assert isinstance(recorded.transport.failure, InvalidQueueLayout)


def test_a_failure_at_restart_becomes_needs_reset(memory, recorded):
    """The host's reasons count, too; queues that come later are stopped at once."""
    recorded.device.failure = DeviceFailed("no room")
    recorded.driver.reset_queue(0)
    recorded.driver.add_queue(0, SplitDriver(memory, 0x4000, 4))
    assert recorded.transport.failure is recorded.device.failure
    recorded.device.failure = None
    recorded.driver.reset_queue(1)
    driver = SplitDriver(memory, 0x5000, 4)
    recorded.driver.add_queue(1, driver)
    driver.add([b"x"])
    assert recorded.device.queues[1].pop() is None


def test_reset_is_refused_outside_of_its_feature(memory, machine):
    """Without RING_RESET, and before DRIVER_OK, nothing happens."""
    for features, start in ((0, True), (RESET, False)):
        block = machine(Recorder())
        block.driver.negotiate(features)
        block.driver.add_queue(0, SplitDriver(memory, 0x1000, 4))
        if start:
            block.driver.start()
        with pytest.raises(DeviceViolation):
            block.driver.reset_queue(0)
        assert isinstance(block.reports[-1], QueueSetupViolation)
        assert block.driver.read(0x044) == 1


def test_odd_values_and_queues_mean_nothing(recorded):
    """Only 1, and only for a queue that exists."""
    for index, value in ((0, 0), (0, 2), (0, 0xFFFF_FFFF), (2, 1), (0xFFFF_FFFF, 1)):
        recorded.driver.write(0x030, index)
        recorded.driver.write(0x0C0, value)
    assert sorted(recorded.device.queues) == [0, 1]
    assert recorded.reports == []


def test_a_queue_that_was_not_reset_cannot_be_set_up_late(memory, recorded):
    """Nor can any after FAILED."""
    recorded.driver.reset_queue(0)
    recorded.driver.write(0x070, 0x8F)
    recorded.driver.write(0x030, 0)
    recorded.driver.write(0x044, 1)
    assert recorded.driver.read(0x044) == 0
    assert isinstance(recorded.reports[-1], QueueSetupViolation)


def test_devices_that_cannot_do_it_do_not_offer_it(memory, machine):
    """Both methods make the offer."""

    class Stubborn(Recorder):
        restart_queue = property()

    driver = machine(Stubborn()).driver
    driver.write(0x014, 1)
    assert driver.read(0x010) >> 8 & 1 == 0


def test_a_driver_notices_a_queue_that_is_not_reset():
    """The registers tell (§4.2.2.1)."""

    class Stuck:
        def read(self, _offset, data):
            data[:] = b"\1\0\0\0"

        def write(self, offset, data):
            """Nothing changes."""

    with pytest.raises(DeviceViolation):
        MmioDriver(Stuck()).reset_queue(0)
