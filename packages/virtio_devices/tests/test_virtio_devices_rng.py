"""The entropy device, driven through its registers by a driver."""

from __future__ import annotations

import pytest

from virtio_devices import Feature, Rng, SplitQueue
from virtio_devices.rng import MAX_REQUEST
from virtio_devices.testing import PackedDriver, SplitDriver


def pattern(size):
    """Bytes that are never zero, so that a buffer shows what was written."""
    return bytes(index % 251 + 1 for index in range(size))


@pytest.fixture
def booted(memory, machine):
    """Starts an entropy device of `pattern`: the machine with its queue."""

    def boot(features=0, source=pattern):
        booted = machine(Rng(source))
        accepted = booted.driver.negotiate(features)
        event_idx = bool(accepted & Feature.EVENT_IDX)
        driver = PackedDriver if accepted & Feature.RING_PACKED else SplitDriver
        booted.queue = driver(memory, 0x1000, 8, span=0x1F000, event_idx=event_idx)
        booted.driver.add_queue(0, booted.queue)
        booted.driver.start()
        return booted

    return boot


def collect(machine):
    machine.driver.notify(0)
    machine.run()
    return machine.queue.collect()


def test_identity(machine):
    """Device 4, one queue, no features, no configuration (§5.4)."""
    driver = machine().driver
    assert driver.read(0x008) == 4
    assert driver.read(0x034) == 64
    assert driver.read(0x100) == 0
    driver.write(0x100, 1)


@pytest.mark.parametrize("packed", [0, int(Feature.RING_PACKED)], ids=["split", "packed"])
@pytest.mark.parametrize("features", [0, int(Feature.EVENT_IDX), int(Feature.INDIRECT_DESC)])
def test_requests_are_filled_and_signalled(booted, features, packed):
    """All of a buffer, however it is divided, and an interrupt with its reason."""
    machine = booted(features | packed)
    machine.queue.add(writable=[5, 0, 3], indirect=bool(features & Feature.INDIRECT_DESC))
    assert [used.data for used in collect(machine)] == [pattern(8)]
    assert machine.interrupt.count == 1
    assert machine.driver.acknowledge() == 1


def test_a_request_gets_at_most_64_kib(booted):
    """What the host holds for a request does not follow the guest's wish."""
    asked = []

    def source(size):
        asked.append(size)
        return pattern(size)

    machine = booted(source=source)
    machine.queue.add(writable=[MAX_REQUEST, 1000])
    assert [used.data for used in collect(machine)] == [pattern(MAX_REQUEST)]
    assert asked == [MAX_REQUEST]


def test_a_request_without_room_gets_nothing(booted):
    """A readable buffer is against §5.4.6.1; it comes back empty, and the device goes on."""
    machine = booted()
    machine.queue.add([b"readable"])
    machine.queue.add(writable=[2])
    assert [used.data for used in collect(machine)] == [b"", pattern(2)]


def test_no_interrupt_without_need(booted):
    """A driver that asked for none gets none."""
    machine = booted()
    machine.queue.disable_interrupts()
    machine.queue.add(writable=[4])
    assert len(collect(machine)) == 1
    assert machine.interrupt.count == 0


def test_random_bytes_are_the_hosts(booted):
    """By default the source is the operating system's, never the same twice."""
    machine = booted(source=Rng()._source)
    machine.queue.add(writable=[32])
    machine.queue.add(writable=[32])
    first, second = collect(machine)
    assert len(first.data) == len(second.data) == 32
    assert first.data != second.data


def test_it_works_again_after_a_reset(booted, memory):
    """A driver may be unloaded and loaded."""
    machine = booted()
    machine.queue.add(writable=[4])
    collect(machine)
    machine.driver.negotiate()
    machine.queue = SplitDriver(memory, 0x4000, 4)
    machine.driver.add_queue(0, machine.queue)
    machine.driver.start()
    machine.queue.add(writable=[4])
    assert [used.data for used in collect(machine)] == [pattern(4)]


def test_work_without_a_queue_is_none(memory):
    """Before activation, without its queue, and for a queue that it does not have."""
    rng = Rng()
    assert not rng.process_queue(0)
    rng.activate(memory, {}, None)
    assert not rng.process_queue(0)
    queue = SplitQueue(memory, SplitDriver(memory, 0x1000, 4).layout)
    rng.activate(memory, {0: queue}, None)
    assert not rng.process_queue(1)
