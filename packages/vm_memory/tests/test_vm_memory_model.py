"""GuestMemory against a model: one bytearray per region, and every byte looked up on its own."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from vm_memory import (
    GuestMemory,
    GuestRegion,
    InvalidGuestAddress,
    MemoryRegionOverlap,
    MisalignedAccess,
    PartialBuffer,
)

TOP = 2**64
BASES = [0, 0x7FFC, TOP - 64]
near = st.builds(lambda base, delta: base + delta, st.sampled_from(BASES), st.integers(-3, 67))
regions = st.tuples(
    st.builds(lambda base, delta: base + delta, st.sampled_from(BASES), st.integers(0, 63)),
    st.integers(1, 24),
).filter(lambda region: region[0] + region[1] <= TOP)
payloads = st.binary(max_size=40)


class MemoryModel(RuleBasedStateMachine):
    """Small regions around 0, an odd place, and the end of the address space."""

    @initialize()
    def start(self):
        self.memory = GuestMemory()
        self.model = {}

    def teardown(self):
        self.memory.close()

    def locate(self, address):
        """The model's (start, bytes) of the region with `address`, or None."""
        for start, data in self.model.items():
            if start <= address < start + len(data):
                return start, data
        return None

    def peek(self, address, size):
        """The bytes from `address` up to `size` or the first hole."""
        found = bytearray()
        for position in range(address, address + size):
            region = self.locate(position)
            if region is None:
                break
            found.append(region[1][position - region[0]])
        return bytes(found)

    def poke(self, address, data):
        for position, byte in enumerate(data, address):
            start, target = self.locate(position)
            target[position - start] = byte

    def expect(self, address, size):
        """What an all-or-nothing access must raise, and how far it gets."""
        completed = len(self.peek(address, size))
        if completed == size:
            return None, completed
        return (PartialBuffer if completed else InvalidGuestAddress), completed

    def attempt(self, error, completed, access):
        """Run `access`; it must raise `error`. Its result, or None."""
        if error is None:
            return access()
        with pytest.raises(error) as caught:
            access()
        if error is PartialBuffer:
            assert caught.value.completed == completed
        return None

    @rule(region=regions)
    def insert(self, region):
        start, size = region
        new = GuestRegion.anonymous(start, size)
        if any(
            start < other + len(data) and other < start + size for other, data in self.model.items()
        ):
            with pytest.raises(MemoryRegionOverlap):
                self.memory.insert(new)
            new.close()
            return
        self.memory = self.memory.insert(new)
        self.model[start] = bytearray(size)

    @rule(address=near)
    def remove(self, address):
        region = self.memory.find_region(address)
        assert (region and region.start_addr) == (
            found[0] if (found := self.locate(address)) else None
        )
        if region is not None:
            self.memory, removed = self.memory.remove(region.start_addr, region.size)
            assert bytes(removed.memory) == self.model.pop(region.start_addr)
            removed.close()

    @rule(address=near, size=st.integers(0, 40))
    def read(self, address, size):
        error, completed = self.expect(address, size)
        assert self.memory.check_range(address, size) == (error is None)
        data = self.attempt(error, completed, lambda: self.memory.read(address, size))
        views = self.attempt(error, completed, lambda: self.memory.iovec(address, size))
        if error is None:
            assert data == b"".join(views) == self.peek(address, size)
        buffer = bytearray(size)
        self.attempt(error, completed, lambda: self.memory.read_into(address, buffer))
        assert buffer == self.peek(address, size).ljust(size, b"\0")

    @rule(address=near, data=payloads, kind=st.sampled_from([bytes, bytearray, memoryview]))
    def write(self, address, data, kind):
        error, completed = self.expect(address, len(data))
        self.attempt(error, completed, lambda: self.memory.write(address, kind(data)))
        self.poke(address, data[:completed])

    @rule(address=near, data=payloads)
    def write_through_views(self, address, data):
        error, completed = self.expect(address, len(data))
        views = self.attempt(error, completed, lambda: self.memory.iovec(address, len(data)))
        if error is None:
            rest = data
            for view in views:
                view[:] = rest[: len(view)]
                rest = rest[len(view) :]
            assert rest == b""
            self.poke(address, data)

    @rule(address=near, size=st.integers(1, 30))
    def view(self, address, size):
        found = self.locate(address)
        completed = min(size, found[0] + len(found[1]) - address) if found else 0
        error = None if completed == size else PartialBuffer if completed else InvalidGuestAddress
        view = self.attempt(error, completed, lambda: self.memory.view(address, size))
        assert view is None or view == self.peek(address, size)

    @rule(address=near, size=st.sampled_from([1, 2, 4, 8]), value=st.integers(0, TOP - 1))
    def integers(self, address, size, value):
        value %= 1 << 8 * size
        found = self.locate(address)
        offset = address - found[0] if found else 0
        room = len(found[1]) - offset if found else 0
        if not found:
            error = InvalidGuestAddress
        elif offset % size:
            error = MisalignedAccess
        else:
            error = PartialBuffer if room < size else None
        before = self.attempt(error, room, lambda: self.memory.load(address, size))
        self.attempt(error, room, lambda: self.memory.store(address, value, size))
        if error is None:
            assert before == int.from_bytes(self.peek(address, size), "little")
            self.poke(address, value.to_bytes(size, "little"))

    @rule(address=near, data=payloads, missing=st.integers(0, 8))
    def files(self, address, data, missing):
        error, completed = self.expect(address, len(data))
        fd = os.memfd_create("model")
        try:
            os.write(fd, data[: max(len(data) - missing, 0)])
            present = os.fstat(fd).st_size
            count = self.attempt(
                error, completed, lambda: self.memory.read_from_fd(address, fd, len(data), 0)
            )
            if error is None:
                assert count == present
                self.poke(address, data[:present])
            written = self.attempt(
                error, completed, lambda: self.memory.write_to_fd(address, fd, len(data), 3)
            )
            if error is None:
                assert written == len(data)
                assert os.pread(fd, len(data) + 1, 3) == self.peek(address, len(data))
        finally:
            os.close(fd)


TestMemoryModel = MemoryModel.TestCase
TestMemoryModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
