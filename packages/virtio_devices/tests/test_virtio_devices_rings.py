"""What both formats of rings promise a device: one set of tests, run on each."""

from __future__ import annotations

import pytest

from virtio_devices import (
    BufferOutsideMemory,
    InvalidChain,
    InvalidIndirectTable,
    QueueError,
    VirtioUsageError,
    serve,
)
from vm_memory import GuestMemory

SIZE = 4


@pytest.fixture
def pair(memory, ring):
    return ring.pair(memory, SIZE)


@pytest.fixture
def driver(pair):
    return pair[0]


@pytest.fixture
def queue(pair):
    return pair[1]


def test_an_empty_queue_has_no_chain(queue):
    """None, not an error."""
    assert queue.pop() is None


@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_goes_to_the_device_and_back(driver, queue, indirect):
    """Name, bytes and length survive the journey."""
    head = driver.add([b"quest", b"ion"], [10], indirect=indirect)
    chain = queue.pop()
    assert chain.head == head
    assert chain.reader.read(8) == b"question"
    chain.writer.write(b"answer")
    queue.add_used(chain, 6)
    assert [(used.head, used.data) for used in driver.collect()] == [(head, b"answer")]


def test_chains_may_come_back_in_any_order(driver, queue):
    """Used buffers have their own order (§2.7.8, §2.8)."""
    heads = [driver.add(writable=[1]) for _ in range(3)]
    chains = [queue.pop() for _ in range(3)]
    for chain in reversed(chains):
        queue.add_used(chain, 0)
    assert [used.head for used in driver.collect()] == heads[::-1]


def test_a_queue_lives_on_and_on(driver, queue):
    """Chains of different lengths pass through a queue many times its size."""
    for number in range(100):
        data = [b"x"] * (number % SIZE + 1)
        driver.add(data)
        chain = queue.pop()
        assert chain.reader.read(chain.reader.size) == b"".join(data)
        queue.add_used(chain, 0)
        assert len(driver.collect()) == 1


def test_a_chain_of_exactly_the_queue_size_is_accepted(driver, queue):
    """The limit itself is allowed (§2.7.5, §2.8.17)."""
    driver.add([b"x"] * SIZE)
    assert queue.pop().reader.read(SIZE) == b"xxxx"


def test_an_indirect_chain_of_exactly_the_queue_size_is_accepted(driver, queue):
    """Also through a table."""
    driver.add([b"x"] * SIZE, indirect=True)
    assert queue.pop().reader.read(SIZE) == b"xxxx"


def refused(queue, error):
    """The fault stays, and the queue with it."""
    with pytest.raises(error) as caught:
        queue.pop()
    assert f"§{caught.value.clause}" in str(caught.value)
    with pytest.raises(error):
        queue.pop()
    assert queue.in_flight == set()


def test_an_indirect_chain_longer_than_the_queue_raises(driver, queue):
    """Descriptors in a table count for the limit."""
    driver.add([b"x"] * (SIZE + 1), indirect=True)
    refused(queue, InvalidChain)


def test_a_table_without_the_feature_raises(memory, ring):
    """INDIRECT means nothing unless it was negotiated."""
    driver, queue = ring.pair(memory, SIZE, indirect=False)
    driver.add([b"x"], indirect=True)
    refused(queue, InvalidIndirectTable)


def test_faults_come_after_the_chains_before_them(memory, ring):
    """What was right before a fault is still handled."""
    driver, queue = ring.pair(memory, SIZE, indirect=False)
    driver.add([b"right"])
    driver.add([b"wrong"], indirect=True)
    handled = []
    with pytest.raises(QueueError):
        serve(queue, lambda chain: handled.append(chain.reader.read(5)) or 0)
    assert handled == [b"right"]
    assert len(driver.collect()) == 1


@pytest.mark.parametrize(
    ("address", "size"), [(0x1FFFF, 2), (0x30000, 1), (2**64 - 1, 2), (0, 2**32 - 1)]
)
@pytest.mark.parametrize("flags", [0, 2])
def test_a_buffer_outside_memory_raises(ring, driver, queue, address, size, flags):
    """All of a buffer is memory, or a device never sees the chain."""
    ring.offer(driver, address, size, flags)
    refused(queue, BufferOutsideMemory)


def test_a_buffer_may_end_at_the_end_of_the_address_space(ring, driver, queue):
    """2^64 is no special address."""
    ring.offer(driver, 2**64 - 16, 16)
    assert queue.pop().reader.read(16) == bytes(16)


def test_empty_buffers_may_be_anywhere(ring, driver, queue):
    """A buffer of no bytes touches no memory."""
    ring.offer(driver, 0xDEAD_0000_0000, 0)
    assert queue.pop().reader.size == 0


@pytest.mark.parametrize("address", [0x30000, 2**64 - 8])
def test_a_table_outside_memory_raises(ring, driver, queue, address):
    """A table is read only where it is memory."""
    ring.offer(driver, address, 16, 4)
    refused(queue, BufferOutsideMemory)


def test_a_chain_comes_back_once(driver, queue):
    """Returning a chain twice is the device's mistake (rust-vmm accepts it)."""
    driver.add([b"x"])
    chain = queue.pop()
    queue.add_used(chain, 0)
    with pytest.raises(VirtioUsageError):
        queue.add_used(chain, 0)


@pytest.mark.parametrize("written", [-1, 9])
def test_a_device_cannot_have_written_more_than_fits(driver, queue, written):
    """The driver would read bytes that nobody wrote."""
    driver.add([b"x"], [8])
    with pytest.raises(VirtioUsageError):
        queue.add_used(queue.pop(), written)


def test_a_stopped_queue_touches_no_memory(memory, driver, queue):
    """After a stop, chains in flight vanish and nothing is taken or written (§2.4.1)."""
    driver.add(writable=[8])
    chain = queue.pop()
    driver.add(writable=[8])
    before = memory.read(0x1000, driver.layout.end - 0x1000)
    queue.stop()
    queue.add_used(chain, 8)
    queue.disable_notification()
    assert not queue.enable_notification()
    assert not queue.needs_notification()
    assert queue.pop() is None
    assert memory.read(0x1000, driver.layout.end - 0x1000) == before


def test_ring_writes_are_marked_dirty(ring):
    """Live migration sees used entries and notification wishes as writes of the device."""
    with GuestMemory.from_ranges([(0, 0x20000)], track_dirty=True) as memory:
        driver, queue = ring.pair(memory, SIZE)
        driver.add([b"x"])
        chain = queue.pop()
        memory.get_and_reset_dirty()
        queue.add_used(chain, 0)
        assert memory.get_and_reset_dirty() == [(0x1000, 0x1000)]
        queue.enable_notification()
        assert memory.get_and_reset_dirty() == [(0x1000, 0x1000)]
        queue.disable_notification()
        queue.needs_notification()
        queue.pop()
        assert len(memory.get_and_reset_dirty()) <= 1


# Batches


def test_a_batch_is_the_chains_in_their_order(driver, queue):
    """At most as many as were asked for."""
    heads = [driver.add([bytes([number])]) for number in range(SIZE)]
    assert queue.pop_batch(0) == []
    chains = queue.pop_batch(3) + queue.pop_batch(3)
    assert [chain.head for chain in chains] == heads
    assert b"".join(chain.reader.read(1) for chain in chains) == bytes(range(SIZE))
    assert queue.pop_batch(3) == []


def test_a_batch_comes_back_in_the_order_given(driver, queue):
    """Each with its own length."""
    for number in range(SIZE):
        driver.add(writable=[number])
    chains = queue.pop_batch(SIZE)
    for chain in chains:
        chain.writer.write(b"x" * chain.writer.size)
    queue.add_used_batch((chain, chain.writer.size) for chain in reversed(chains))
    assert [used.data for used in driver.collect()] == [b"xxx", b"xx", b"x", b""]
    queue.add_used_batch([])


def test_a_fault_in_a_batch_waits_for_the_next_call(memory, ring):
    """The chains before it are handed out."""
    driver, queue = ring.pair(memory, SIZE, indirect=False)
    head = driver.add([b"right"])
    driver.add([b"wrong"], indirect=True)
    assert [chain.head for chain in queue.pop_batch(SIZE)] == [head]
    with pytest.raises(QueueError):
        queue.pop_batch(SIZE)


def test_a_batch_with_a_mistake_is_refused_as_a_whole(driver, queue):
    """Twice the same chain, or one that was written too much into."""
    driver.add(writable=[1])
    driver.add(writable=[1])
    first, second = queue.pop_batch(SIZE)
    for batch in ([(first, 1), (second, 2)], [(first, 1), (second, 1), (first, 1)]):
        with pytest.raises(VirtioUsageError):
            queue.add_used_batch(batch)
        assert driver.collect() == []
    assert queue.in_flight == {first.head, second.head}
    queue.add_used_batch([(first, 1), (second, 1)])
    assert len(driver.collect()) == 2


def test_a_chain_of_another_queue_is_refused(memory, ring, driver, queue):
    """Also if the head is the same: its buffers are not the ones that the driver knows."""
    other_driver = ring.make_driver(memory, 0x12000, SIZE, span=0x4000)
    other = ring.make_queue(memory, other_driver.layout)
    driver.add([b"x"])
    other_driver.add([b"y"])
    chain = other.pop()
    queue.pop()
    with pytest.raises(VirtioUsageError):
        queue.add_used(chain, 0)
    with pytest.raises(VirtioUsageError):
        queue.put_back(chain)


# Telling the driver


def use_one(driver, queue):
    driver.add([b"x"])
    queue.add_used(queue.pop(), 0)
    driver.collect()


def test_nothing_used_needs_no_notification(queue):
    """There is nothing to tell."""
    assert not queue.needs_notification()


def test_driver_is_notified_unless_it_said_no(driver, queue):
    """Without EVENT_IDX the flag decides (rust-vmm ignores it)."""
    use_one(driver, queue)
    assert queue.needs_notification()
    assert not queue.needs_notification()
    driver.disable_interrupts()
    use_one(driver, queue)
    assert not queue.needs_notification()
    driver.enable_interrupts()
    use_one(driver, queue)
    assert queue.needs_notification()


def test_event_index_decides_with_event_idx(memory, ring):
    """One notification, when the entry that the driver named is passed (§2.7.7.2, §2.8.10)."""
    driver, queue = ring.pair(memory, SIZE, event_idx=True)
    for _ in range(5):
        driver.enable_interrupts(after=3)
        needed = []
        for _ in range(3):
            use_one(driver, queue)
            needed.append(queue.needs_notification())
        assert needed == [False, False, True]


def test_a_batch_that_passes_the_event_is_notified(memory, ring):
    """It does not matter where in a batch the event lies, nor whether the ring wraps in it."""
    driver, queue = ring.pair(memory, SIZE, event_idx=True)
    for _ in range(9):
        driver.enable_interrupts(after=2)
        for _ in range(3):
            use_one(driver, queue)
        assert queue.needs_notification()


def test_many_laps_without_a_question_pass_every_event(memory, ring):
    """Who asks seldom is told yes rather than no."""
    driver, queue = ring.pair(memory, SIZE, event_idx=True)
    for after in (1, 2, 3, 4):
        driver.enable_interrupts(after=after)
        for _ in range(4 * SIZE + 1):
            use_one(driver, queue)
        assert queue.needs_notification()


# Being told by the driver


@pytest.mark.parametrize("event_idx", [False, True])
def test_driver_kicks_only_when_asked(memory, ring, event_idx):
    """Enabled: the next chain kicks. Disabled, or passed: none does (§2.7.10.1, §2.8.10)."""
    driver, queue = ring.pair(memory, SIZE, event_idx=event_idx)
    driver.add([b"x"])
    assert driver.needs_kick()
    queue.pop()
    queue.disable_notification()
    driver.add([b"x"])
    assert not driver.needs_kick()
    assert queue.enable_notification()
    queue.pop()
    assert not queue.enable_notification()
    driver.add([b"x"])
    assert driver.needs_kick()


# Serving


def test_serve_empties_the_queue_and_enables_notifications(driver, queue):
    """On False, the next chain brings a kick."""
    for _ in range(SIZE - 1):
        driver.add(writable=[4])
    driver.needs_kick()
    assert not serve(queue, lambda chain: chain.writer.size)
    assert len(driver.collect()) == SIZE - 1
    driver.add(writable=[4])
    assert driver.needs_kick()


def test_serve_ends_though_chains_keep_coming(driver, queue):
    """A driver that adds a chain for each one that is used does not hold the device."""
    handled = []

    def handle(chain):
        handled.append(chain.head)
        driver.collect()
        driver.add([b"x"])
        return 0

    driver.add([b"x"])
    driver.add([b"x"])
    assert serve(queue, handle)
    assert SIZE <= len(handled) <= 2 * SIZE
    assert serve(queue, handle)


def test_serve_survives_a_handler_that_raises(driver, queue):
    """Chains before it come back, it stays in flight, those after it are available again."""
    heads = [driver.add([bytes([number])]) for number in range(SIZE)]

    def handle(chain):
        if chain.head == heads[1]:
            raise LookupError
        return 0

    with pytest.raises(LookupError):
        serve(queue, handle)
    assert [used.head for used in driver.collect()] == heads[:1]
    assert queue.in_flight == {heads[1]}
    assert not serve(queue, handle)
    assert [used.head for used in driver.collect()] == heads[2:]
