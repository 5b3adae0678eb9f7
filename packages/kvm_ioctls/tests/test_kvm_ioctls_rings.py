"""Rings in plain memory: against a model of the kernel's side."""

from __future__ import annotations

import struct
import sys
import threading
from mmap import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_ioctls import CoalescedRing, CoalescedWrite, DirtyPage, DirtyRing, Mmio, Pio, _run
from kvm_ioctls._ffi import ffi

DIRTY, RESET = 1, 2
ENTRIES = 256


@settings(deadline=None)
@given(st.lists(st.integers(0, 200), max_size=12))
def test_every_dirty_page_is_harvested_once_and_in_order(bursts):
    """Model: a queue. Each harvest gives what was pushed since, however often the ring wraps."""
    memory = mmap(-1, ENTRIES * 16)
    ring = DirtyRing(memory)
    pushed = 0
    for burst in bursts:
        expected = [DirtyPage(n % 7, n) for n in range(pushed, pushed + burst)]
        for entry in expected:
            struct.pack_into("=IIQ", memory, pushed % ENTRIES * 16, DIRTY, entry.slot, entry.page)
            pushed += 1
        assert ring.harvest() == expected
        assert all(memory[place] != DIRTY for place in range(0, len(memory), 16))
    ring.close()
    ring.close()


def test_a_full_ring_is_harvested_whole():
    """No more than there are entries, although each of them is dirty."""
    memory = mmap(-1, ENTRIES * 16)
    for n in range(ENTRIES):
        struct.pack_into("=IIQ", memory, n * 16, DIRTY, 0, n)
    ring = DirtyRing(memory)
    assert [page for _, page in ring.harvest()] == list(range(ENTRIES))
    assert all(struct.unpack_from("=I", memory, n * 16)[0] == RESET for n in range(ENTRIES))
    ring.close()


writes = st.builds(
    CoalescedWrite,
    st.one_of(st.builds(Pio, st.integers(0, 0xFFFF)), st.builds(Mmio, st.integers(0, 2**64 - 1))),
    st.binary(min_size=1, max_size=8),
)


@settings(deadline=None)
@given(st.lists(st.lists(writes, max_size=60), max_size=6))
def test_coalesced_writes_come_out_as_they_went_in(bursts):
    """Model: a queue, in the page that the kernel lays out."""
    page = bytearray(4096)
    ring = CoalescedRing(memoryview(page), threading.Lock())
    room = (4096 - 8) // 24
    for burst in bursts:
        for write in burst:
            last = int.from_bytes(page[4:8], "little")
            pio = isinstance(write.address, Pio)
            where = write.address.port if isinstance(write.address, Pio) else write.address.address
            record = struct.pack("=QII8s", where, len(write.data), pio, write.data)
            page[8 + last * 24 : 8 + last * 24 + 24] = record
            page[4:8] = ((last + 1) % room).to_bytes(4, "little")
        assert ring.drain() == burst
    assert ring.drain() == []


def test_a_dirty_page_s_layout():
    """The record that Python takes apart is the header's."""
    places = [ffi.offsetof("struct kvm_dirty_gfn", name) for name in ("flags", "slot", "offset")]
    assert places == [0, 4, 8]
    assert ffi.sizeof("struct kvm_dirty_gfn") == 16


def page_with(write: bytes) -> bytearray:
    """A ring of one write."""
    return bytearray(struct.pack("=II", 0, 1) + write).ljust(4096, b"\0")


def test_a_write_is_never_longer_than_its_record():
    """A length that cannot be is as good as the longest that can."""
    page = page_with(struct.pack("=QII8s", 0x1000, 2**32 - 1, 0, b"abcdefgh"))
    ring = CoalescedRing(memoryview(page), threading.Lock())
    assert ring.drain() == [CoalescedWrite(Mmio(0x1000), b"abcdefgh")]


def test_a_drain_that_fails_loses_nothing():
    """The writes are there for the next one, and nothing is left of those that were made."""
    page = page_with(struct.pack("=QII8s", 0x80, 1, 1, b"a"))

    def no_memory(pio: int, number: int) -> object:
        raise MemoryError(pio, number)

    with pytest.raises(MemoryError):
        _run.drain_coalesced(page, CoalescedWrite, no_memory)
    ring = CoalescedRing(memoryview(page), threading.Lock())
    assert ring.drain() == [CoalescedWrite(Pio(0x80), b"a")]
    assert ring.drain() == []


@pytest.mark.parametrize("size", [8, 24])
def test_what_is_no_dirty_ring(size):
    """Entries are whole, and there is one at least; there was a division by zero."""
    with pytest.raises(ValueError, match=f"not {size} bytes"):
        DirtyRing(mmap(-1, size))


def test_a_coalesced_ring_that_is_too_short():
    """Is refused when it is drained; C divided by the number of its entries."""
    with pytest.raises(ValueError, match="at least 32 bytes, not 4"):
        CoalescedRing(memoryview(bytearray(4)), threading.Lock()).drain()


def together(function) -> list[object]:
    """What two threads get that call `function` at once."""
    barrier, got = threading.Barrier(2), []

    def call() -> None:
        barrier.wait()
        got.append(function())

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_threads_that_harvest_share_the_pages():
    """Each goes to one of them, in order."""
    entries = 65536
    for _ in range(5):
        memory = mmap(-1, entries * 16)
        memory[:] = b"".join(struct.pack("=IIQ", DIRTY, 0, n) for n in range(entries))
        ring = DirtyRing(memory)
        assert sorted(map(len, together(ring.harvest))) == [0, entries]
        ring.close()


def test_threads_that_drain_share_the_writes():
    """Each goes to one of them."""
    room = (4096 - 8) // 24
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            page = bytearray(4096)
            for n in range(room - 1):
                page[8 + n * 24 : 32 + n * 24] = struct.pack("=QII8s", n, 1, 0, b"a")
            page[4:8] = (room - 1).to_bytes(4, "little")
            ring = CoalescedRing(memoryview(page), threading.Lock())
            assert sorted(map(len, together(ring.drain))) == [0, room - 1]
    finally:
        sys.setswitchinterval(usual)


def test_what_is_no_ring():
    """A page that is too short, one that cannot be written, and a class that is no tuple's."""
    for arguments, error in [
        ((bytearray(31), CoalescedWrite, Pio), ValueError),
        ((bytes(4096), CoalescedWrite, Pio), BufferError),
        ((bytearray(4096), int, Pio), TypeError),
        ((bytearray(4096), CoalescedWrite), TypeError),
    ]:
        with pytest.raises(error):
            _run.drain_coalesced(*arguments)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_indices_out_of_range_stay_inside_the_page(first, last):
    """A ring whose header makes no sense gives no more than it has room for."""
    page = bytearray(4096)
    page[:8] = struct.pack("=II", first, last)
    assert len(CoalescedRing(memoryview(page), threading.Lock()).drain()) <= (4096 - 8) // 24
