"""Rings in plain memory: against a model of the kernel's side."""

from __future__ import annotations

import struct
import threading
from mmap import mmap

from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_ioctls import CoalescedRing, CoalescedWrite, DirtyPage, DirtyRing, Mmio, Pio
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


def test_a_write_s_layout():
    """The record that Python takes apart is the header's."""
    places = [ffi.offsetof("struct kvm_coalesced_mmio", name) for name in ("len", "pio", "data")]
    assert places == [8, 12, 16]
    assert ffi.sizeof("struct kvm_coalesced_mmio") == 24


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_indices_out_of_range_stay_inside_the_page(first, last):
    """A ring whose header makes no sense gives no more than it has room for."""
    page = bytearray(4096)
    page[:8] = struct.pack("=II", first, last)
    assert len(CoalescedRing(memoryview(page), threading.Lock()).drain()) <= (4096 - 8) // 24
