"""Counted lists, and which memory a machine borrows: without KVM."""

from __future__ import annotations

import errno
import gc
from mmap import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_ioctls import CpuidEntry, KvmError, MsrEntry, _lists
from kvm_ioctls._slots import SlotTable, borrow


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)), max_size=50))
def test_lists_round_trip(values):
    """What is packed behind a header is what comes out."""
    entries = [MsrEntry(index=index, data=data) for index, data in values]
    packed = _lists.pack("struct kvm_msrs", MsrEntry, entries)
    assert len(packed) == 8 + 16 * len(entries)
    assert _lists.count(packed) == len(entries)
    assert _lists.unpack("struct kvm_msrs", MsrEntry, packed) == entries


class Fake:
    """A descriptor whose list has `size` entries."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rooms = []

    def ioctl_buffer(self, request: str, packed: bytearray) -> int:
        room = _lists.count(packed)
        assert len(packed) == 8 + room * CpuidEntry.SIZE
        self.rooms.append(room)
        if room < self.size:
            raise KvmError(errno.E2BIG, request)
        packed[:4] = self.size.to_bytes(4, "little")
        return 0


@settings(deadline=None)
@given(st.integers(0, 4096))
def test_a_list_of_any_length_is_fetched(size):
    """The room doubles until the list fits."""
    fake = Fake(size)
    packed = _lists.fetch(fake, "KVM_GET_CPUID2", "struct kvm_cpuid2", CpuidEntry.SIZE)
    assert _lists.count(packed) == size
    assert fake.rooms == sorted(set(fake.rooms))


def test_a_list_without_end_is_an_error():
    """A kernel that is never content does not make us loop."""
    with pytest.raises(KvmError, match="E2BIG"):
        _lists.fetch(Fake(10**6), "KVM_GET_CPUID2", "struct kvm_cpuid2", CpuidEntry.SIZE)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_slots_hold_exactly_what_is_in_them(steps):
    """Model: an mmap can be closed exactly when no slot has it."""
    table, memories, model = SlotTable(), [], {}
    machine = table.hold()
    for number, filled in steps:
        new = None
        if filled:
            new = mmap(-1, 4096)
            memories.append(new)
        table.replace(number, borrow(new) if new else None)
        model.pop(number, None)
        if new:
            model[number] = new
        assert table.size(number) == (4096 if new else 0)
    vcpu = table.hold()
    vcpu.leave()
    vcpu.leave()
    held = {id(memory) for memory in model.values()}
    for memory in memories:
        if id(memory) in held:
            with pytest.raises(BufferError):
                memory.close()
        else:
            memory.close()
    machine.leave()
    for memory in memories:
        memory.close()


def test_read_only_memory_cannot_be_borrowed():
    """KVM writes to a slot's memory: it is writable for us too, unless the slot is read-only."""
    memory = memoryview(bytes(4096))
    with pytest.raises(TypeError, match="memory is writable and C-contiguous, not <memory at"):
        borrow(memory)
    borrow(memory, writable=False).release()
    with pytest.raises(TypeError, match="memory is a buffer, not 4096"):
        borrow(4096)


def test_borrowed_views_can_be_collected():
    """A view that is lent and part of a reference cycle does not crash the collector.

    The wrong behaviour was a crash: CPython 3.11 clears a memoryview that C still borrows.
    """
    table = SlotTable()
    machine = table.hold()
    cycle = [memoryview(mmap(-1, 4096))]
    cycle.append(cycle)
    table.replace(0, borrow(cycle[0]))
    cycle += table, machine
    del cycle, table, machine
    gc.collect()
