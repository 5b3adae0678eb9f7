"""Saving a queue, making it again, and putting chains back: on both formats of rings."""

from __future__ import annotations

import pytest

from virtio_devices import InvalidQueueLayout, QueueState, VirtioUsageError

SIZE = 4


def pass_through(driver, queue, count):
    for _ in range(count):
        driver.add([b"x"])
        queue.add_used(queue.pop(), 0)
        driver.collect()


def restored(memory, queue):
    return type(queue).restore(memory, queue.state())


@pytest.mark.parametrize("before", [0, 1, SIZE, SIZE + 3])
@pytest.mark.parametrize("event_idx", [False, True])
def test_a_restored_queue_goes_on_where_it_was(memory, ring, before, event_idx):
    """Chains that were available are taken, and come back where the driver looks."""
    driver, queue = ring.pair(memory, SIZE, event_idx=event_idx)
    pass_through(driver, queue, before)
    driver.enable_interrupts()
    waiting = driver.add([b"question"], indirect=True)
    queue = restored(memory, queue)
    chain = queue.pop()
    assert chain.reader.read(8) == b"question"
    queue.add_used(chain, 0)
    assert [used.head for used in driver.collect()] == [waiting]
    assert queue.needs_notification()


def test_a_record_is_plain_and_complete(memory, ring):
    """What a snapshot writes down makes an equal record, and an equal queue."""
    driver, queue = ring.pair(memory, SIZE, event_idx=True)
    pass_through(driver, queue, SIZE + 1)
    record = queue.state()
    fields = {name: getattr(record, name) for name in QueueState.__slots__}
    assert QueueState(**fields) == record
    assert type(queue).restore(memory, QueueState(**fields)).state() == record
    assert record.areas == driver.layout.areas
    fields["position"] ^= 1
    assert QueueState(**fields) != record
    assert record != fields
    assert f"size={SIZE}" in repr(record)


def test_a_queue_with_chains_in_flight_is_not_saved(memory, ring):
    """The record has no place for them."""
    driver, queue = ring.pair(memory, SIZE)
    driver.add([b"x"])
    chain = queue.pop()
    with pytest.raises(VirtioUsageError, match="1 chains are in flight"):
        queue.state()
    queue.put_back(chain)
    assert queue.state().position == queue.next_avail


def test_impossible_records_are_refused(memory, ring):
    """A position outside the ring, or rings outside memory."""
    _driver, queue = ring.pair(memory, SIZE)
    impossible = [-1, 0x10000] + ([SIZE, 0x8000 | SIZE] if ring.name == "packed" else [])
    for position in impossible:
        record = queue.state()
        record.position = position
        with pytest.raises(VirtioUsageError, match="cannot be at position"):
            type(queue).restore(memory, record)
    record = queue.state()
    record.areas = (0x1000, 0x2000, 0x7FFF_FFFC)
    with pytest.raises(InvalidQueueLayout):
        type(queue).restore(memory, record)


def test_a_record_of_the_other_format_is_refused(memory, ring):
    """The two have nothing in common but the numbers."""
    _driver, queue = ring.pair(memory, SIZE)
    record = queue.state()
    record.packed = not record.packed
    with pytest.raises(VirtioUsageError, match="the record is of a"):
        type(queue).restore(memory, record)


def test_a_chain_that_was_put_back_comes_again(memory, ring):
    """As if it had not been taken, in the same order."""
    driver, queue = ring.pair(memory, SIZE)
    pass_through(driver, queue, SIZE - 1)  # so that the ring wraps in between
    heads = [driver.add([b"1", b"2"]), driver.add([b"3"])]
    for _ in range(3):
        first, second = queue.pop(), queue.pop()
        assert [first.head, second.head] == heads
        assert first.reader.read(2) == b"12"
        assert queue.pop() is None
        queue.put_back(second)
        queue.put_back(first)
        assert queue.in_flight == set()
        assert queue.enable_notification()


def test_only_the_last_chain_can_be_put_back(memory, ring):
    """The ones after it would be lost, or come twice."""
    driver, queue = ring.pair(memory, SIZE)
    driver.add([b"1"])
    driver.add([b"2"])
    first, second = queue.pop(), queue.pop()
    with pytest.raises(VirtioUsageError, match="was not taken last"):
        queue.put_back(first)
    queue.add_used(second, 0)
    for chain in (first, second):
        with pytest.raises(VirtioUsageError):
            queue.put_back(chain)
    queue.add_used(first, 0)
    assert len(driver.collect()) == 2
