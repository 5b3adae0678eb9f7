"""The compiled module by itself: what it refuses, and what it does when memory goes away."""

from __future__ import annotations

import gc
import struct
import sys

import pytest

from virtio_devices import InvalidIndirectTable, RequestTooShort, VirtioUsageError, _core, serve
from vm_memory import GuestMemory


@pytest.fixture
def pair(memory, ring):
    return ring.pair(memory)


@pytest.fixture
def driver(pair):
    return pair[0]


@pytest.fixture
def queue(pair):
    return pair[1]


def test_a_queue_does_not_keep_memory_open(ring):
    """Memory may be closed under an idle queue; whoever uses the queue then is told."""
    with GuestMemory.from_ranges([(0, 0x20000)]) as memory:
        driver, queue = ring.pair(memory)
        driver.add(writable=[1])
        driver.add(writable=[1])
        chain = queue.pop()
    for use in (
        queue.pop,
        queue.enable_notification,
        queue.disable_notification,
        lambda: queue.pop_batch(1),
        lambda: queue.discard(1),
        lambda: queue.add_used(chain, 0),
        lambda: queue.add_used_batch([(chain, 0)]),
        lambda: chain.writer.write(b"x"),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert queue.in_flight == {chain.head}
    queue.stop()
    assert queue.pop() is None
    queue.add_used(chain, 0)


def test_an_indirect_table_in_a_closed_region_is_not_read(ring):
    """Each region is looked at, not only those of the rings."""
    with GuestMemory.from_ranges([(0, 0x20000), (0x40000, 0x1000)]) as memory:
        driver, queue = ring.pair(memory)
        ring.offer(driver, 0x40000, 16, 4)
        memory.regions[1].close()
        with pytest.raises(ValueError, match="closed"):
            queue.pop()


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (0x1000, 0x2000, 0x3000), 0),
        (32769, (0x1000, 0x2000, 0x3000), 0),
        (4, (0x1008, 0x2000, 0x3000), 0),
        (4, (0x1000, 0x2001, 0x3000), 0),
        (4, (0x1000, 0x2000, 0x3001), 0),
        (4, (0x1FFD0, 0x2000, 0x3000), 0),
        (4, (0x1000, 2**64 - 2, 0x3000), 0),
        (4, (0x1000, 0x2000, 0x20000), 0),
        (4, (0x1000, 0x2000, 0x3000), 0x10000),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_unchecked_layouts_are_refused_again(memory, packed, arguments):
    """C code trusts no caller with addresses."""
    size, areas, position = arguments
    with pytest.raises(ValueError, match=r"layout|position"):
        _core.Ring(memory, packed, size, areas, False, False, position)


def test_a_region_at_an_odd_address_is_refused_again():
    """A field must not lie in two pieces."""
    with (
        GuestMemory.from_ranges([(0, 0x1001), (0x1001, 0x8000)]) as memory,
        pytest.raises(ValueError, match="layout"),
    ):
        _core.Ring(memory, True, 4, (0xFF0, 0x800, 0x900), False, False, 0)


@pytest.mark.parametrize(
    "table",
    [
        struct.pack("=4Q", 2, 1, 0, 12),
        struct.pack("=4Q", 1, 1, 1, 12),
        struct.pack("=8Q", 1, 1, 1, 12, 0, 0x10000, 0, 0),
        b"",
    ],
    ids=["version", "rows", "regions", "empty"],
)
def test_unknown_region_tables_are_refused(table):
    """A layout that is not known, or does not fit, is not guessed at."""

    class Memory:
        regions = ()

    memory = Memory()
    memory.table = table
    with pytest.raises(ValueError, match="region table"):
        _core.Ring(memory, True, 4, (0, 0x800, 0x900), False, False, 0)


def test_what_is_no_memory_is_refused():
    """With Python's own errors."""
    with pytest.raises(AttributeError):
        _core.Ring(object(), True, 4, (0, 0x800, 0x900), False, False, 0)


@pytest.mark.parametrize("thing", [_core.DescriptorChain, _core.Reader, _core.Writer])
def test_only_a_queue_makes_chains(thing):
    """A chain is a promise that it was checked."""
    with pytest.raises(TypeError):
        thing()


@pytest.mark.parametrize("wrong", [None, "chain", 3])
def test_things_that_are_no_chains_are_refused(queue, wrong):
    """Python's types are checked like a guest's numbers."""
    for call in (
        lambda: queue.add_used(wrong, 0),
        lambda: queue.add_used_batch([(wrong, 0)]),
        lambda: queue.add_used_batch([wrong]),
        lambda: queue.put_back(wrong),
        lambda: queue.add_used(wrong),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("wrong", [-1, 2**64])
def test_impossible_numbers_are_refused(driver, queue, wrong):
    """Negative, or beyond 64 bits: an error of its kind, and nothing happens."""
    driver.add([b"x"], [1])
    chain = queue.pop()
    for error, call in (
        (ValueError, queue.pop_batch),
        (ValueError, queue.discard),
        (VirtioUsageError, lambda number: queue.add_used(chain, number)),
        (RequestTooShort, chain.reader.read),
        (RequestTooShort, chain.writer.spans),
    ):
        with pytest.raises(error):
            call(wrong)
        with pytest.raises(TypeError):
            call(None)
    assert queue.in_flight == {chain.head}
    assert (chain.reader.remaining, chain.writer.remaining) == (1, 1)


def test_discarded_chains_come_back_empty(driver, queue):
    """At most as many as were asked for, among chains that are in flight."""
    heads = [driver.add([b"x"], [1]) for _ in range(2)]
    held = queue.pop()
    assert queue.discard(4) == 1
    assert [(used.head, used.data) for used in driver.collect()] == [(heads[1], b"")]
    queue.add_used(held, 1)
    assert [used.head for used in driver.collect()] == [heads[0]]
    assert queue.needs_notification()
    for _ in range(4):
        driver.add([b"x"])
    assert [queue.discard(3), queue.discard(3), queue.discard(3)] == [3, 1, 0]
    assert len(driver.collect()) == 4


def test_discarding_ends_at_a_broken_chain(memory, ring):
    """As a batch does."""
    driver, queue = ring.pair(memory, indirect=False)
    driver.add([b"right"])
    driver.add([b"wrong"], indirect=True)
    assert queue.discard(4) == 1
    with pytest.raises(InvalidIndirectTable):
        queue.discard(4)


def test_writers_take_any_contiguous_bytes(memory, driver, queue):
    """Whatever the format of the items; pieces of it go into pieces of the chain."""
    driver.add(writable=[3, 0, 5, 8])
    chain = queue.pop()
    chain.writer.write(memoryview(struct.pack("<2H", 1, 2)).cast("H"))
    chain.writer.write(bytearray(b"bytes"))
    chain.writer.write(b"")
    with pytest.raises(TypeError):
        chain.writer.write("text")
    queue.add_used(chain, chain.writer.written)
    assert driver.collect()[0].data == b"\1\0\2\0bytes"


def test_streams_share_their_position(driver, queue):
    """A reader is a look at its chain, whoever asked for it."""
    driver.add([b"abcd"], [4])
    chain = queue.pop()
    assert chain.reader.read(1) + chain.reader.read(2) == b"abc"
    assert (chain.reader.size, chain.reader.remaining) == (4, 1)
    assert "readable=4 writable=4" in repr(chain)


def test_nothing_is_leaked(memory, ring):
    """Chains, streams and queues end with their last use; so do those lost in a dropped queue."""
    driver, queue = ring.pair(memory)

    def work():
        for _ in range(200):
            driver.add([b"abc"], [3])
            serve(queue, lambda chain: len(chain.reader.read(3)) * 0)
            driver.collect()
        _lost, dropped = ring.pair(memory)
        _lost.add([b"x"])
        dropped.pop()

    work()
    references = sys.getrefcount(memory)
    gc.collect()
    for _ in range(3):
        driver, queue = ring.pair(memory)
        work()
    assert sys.getrefcount(memory) - references < 10
