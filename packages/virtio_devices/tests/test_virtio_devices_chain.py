"""A request as two streams of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtio_devices import RequestTooShort, SplitQueue
from virtio_devices.testing import SplitDriver
from vm_memory import GuestMemory

pieces = st.lists(st.binary(max_size=9), min_size=1, max_size=8)


def popped(memory, readable=(), writable=(), *, indirect=False):
    driver = SplitDriver(memory, 0x1000, 16)
    queue = SplitQueue(memory, driver.layout, indirect=indirect)
    driver.add(readable, writable, indirect=indirect)
    return driver, queue, queue.pop()


@given(buffers=pieces, sizes=st.lists(st.integers(0, 20)), indirect=st.booleans())
def test_reader_does_not_see_where_buffers_end(buffers, sizes, indirect):
    """Any division into reads gives the same bytes as any division into descriptors (§2.7.4.1)."""
    with GuestMemory.from_ranges([(0, 0x20000)]) as memory:
        _, _, chain = popped(memory, buffers, indirect=indirect)
        content = b"".join(buffers)
        found = b""
        for position, size in enumerate(sizes):
            size = min(size, chain.reader.remaining)  # noqa: PLW2901
            if position % 2:
                found += chain.reader.read(size)
            else:
                found += b"".join(memory.read(*span) for span in chain.reader.spans(size))
        found += chain.reader.read(chain.reader.remaining)
        assert found == content
        assert chain.reader.size == len(content)


@given(rooms=st.lists(st.integers(0, 9), min_size=1, max_size=8), data=st.binary(max_size=40))
def test_writer_fills_buffers_in_order(rooms, data):
    """What a device writes is what the driver finds, up to the length that is returned."""
    data = data[: sum(rooms)]
    with GuestMemory.from_ranges([(0, 0x20000)]) as memory:
        driver, queue, chain = popped(memory, writable=rooms)
        half = len(data) // 2
        chain.writer.write(data[:half])
        rest = memoryview(data)[half:]
        for address, length in chain.writer.spans(len(rest)):
            memory.write(address, rest[:length])
            rest = rest[length:]
        assert chain.writer.written == len(data)
        assert chain.writer.remaining == sum(rooms) - len(data)
        queue.add_used(chain, chain.writer.written)
        assert [used.data for used in driver.collect()] == [data]


def test_reading_beyond_the_end_raises(memory):
    """A short request is the driver's fault, and nothing of it is consumed by the attempt."""
    _, _, chain = popped(memory, [b"abc", b"d"])
    with pytest.raises(RequestTooShort) as caught:
        chain.reader.read(5)
    assert (caught.value.needed, caught.value.remaining) == (5, 4)
    assert chain.reader.read(4) == b"abcd"


def test_writing_beyond_the_end_raises(memory):
    """What does not fit is not written at all."""
    _, _, chain = popped(memory, writable=[2, 1])
    with pytest.raises(RequestTooShort):
        chain.writer.write(b"abcd")
    assert chain.writer.written == 0


def test_negative_sizes_are_refused(memory):
    """A device's arithmetic error does not move a stream backwards."""
    _, _, chain = popped(memory, [b"abc"])
    with pytest.raises(RequestTooShort):
        chain.reader.read(-1)
    assert chain.reader.remaining == 3


def test_buffers_may_cross_adjacent_regions():
    """One buffer over two regions is one piece of bytes."""
    with GuestMemory.from_ranges([(0, 0x10000), (0x10000, 0x10000)]) as memory:
        driver = SplitDriver(memory, 0x1000, 4)
        memory.write(0xFFFE, b"abcd")
        driver.write_descriptor(0, 0xFFFE, 4)
        driver.offer(0)
        chain = SplitQueue(memory, driver.layout).pop()
        assert chain.reader.read(4) == b"abcd"
