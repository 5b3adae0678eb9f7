"""GuestMemory against a model: one bytearray per region, and every byte looked up on its own."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

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
        self.tracked = set()  # starts of the regions that track
        self.dirty = set()  # those of them that were written to; each is one page
        self.views = []  # live ones: (address, size, view)

    def teardown(self):
        for _address, _size, view in self.views:
            view.release()
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
            self.dirty |= {start} & self.tracked

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

    @rule(region=regions, track=st.booleans())
    def insert(self, region, track):
        start, size = region
        new = GuestRegion.anonymous(start, size, track_dirty=track)
        if any(
            start < other + len(data) and other < start + size for other, data in self.model.items()
        ):
            with pytest.raises(MemoryRegionOverlap):
                self.memory.insert(new)
            new.close()
            return
        self.memory = self.memory.insert(new)
        self.model[start] = bytearray(size)
        self.tracked |= {start} if track else set()

    @rule(address=near)
    def remove(self, address):
        region = self.memory.find_region(address)
        assert (region and region.start_addr) == (
            found[0] if (found := self.locate(address)) else None
        )
        if region is None:
            return
        start = region.start_addr
        smaller, removed = self.memory.remove(start, region.size)
        if any(self.locate(held)[0] == start for held, _size, _view in self.views):
            with pytest.raises(BufferError):
                removed.close()
            return
        self.memory = smaller
        assert smaller.find_region(address) is None
        assert bytes(removed.memory) == self.model.pop(start)
        removed.close()
        self.tracked.discard(start)
        self.dirty.discard(start)

    @rule(address=near, size=st.integers(0, 40))
    def read(self, address, size):
        error, completed = self.expect(address, size)
        assert self.memory.check_range(address, size) == (error is None)
        assert self.memory.reachable(address, size) == completed
        data = self.attempt(error, completed, lambda: self.memory.read(address, size))
        views = self.attempt(error, completed, lambda: self.memory.iovec(address, size, False))
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
                view.release()
            assert rest == b""
            self.poke(address, data)

    @rule(address=near, size=st.integers(1, 30), writable=st.booleans())
    def view(self, address, size, writable):
        found = self.locate(address)
        completed = min(size, found[0] + len(found[1]) - address) if found else 0
        error = None if completed == size else PartialBuffer if completed else InvalidGuestAddress
        view = self.attempt(error, completed, lambda: self.memory.view(address, size, writable))
        if view is None:
            return
        assert view == self.peek(address, size)
        if writable:
            self.views.append((address, size, view))
        else:
            assert view.readonly
            view.release()

    @precondition(lambda self: self.views)
    @rule(which=st.integers(0, 100), byte=st.integers(0, 255))
    def write_through_a_live_view(self, which, byte):
        address, size, view = self.views[which % len(self.views)]
        view[size - 1] = byte
        self.poke(address + size - 1, bytes([byte]))

    @precondition(lambda self: self.views)
    @rule(which=st.integers(0, 100))
    def end_a_view(self, which):
        address, _size, view = self.views.pop(which % len(self.views))
        view.release()
        self.dirty |= {self.locate(address)[0]} & self.tracked

    @rule()
    def harvest(self):
        live = {self.locate(address)[0] for address, _size, _view in self.views} & self.tracked
        expected = []
        for start in sorted(self.dirty | live):
            size = len(self.model[start])
            if expected and sum(expected[-1]) == start:
                expected[-1] = (expected[-1][0], expected[-1][1] + size)
            else:
                expected.append((start, size))
        assert self.memory.get_and_reset_dirty() == expected
        self.dirty = set()

    @rule(address=near, size=st.integers(0, 40))
    def mark(self, address, size):
        error, completed = self.expect(address, size)
        self.attempt(error, completed, lambda: self.memory.mark_dirty(address, size))
        if error is None:
            self.poke(address, self.peek(address, size))

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

    @rule(first=near, second=near, data=payloads, split=st.integers(0, 40))
    def pieces(self, first, second, data, split):
        """One system call into two places, which may be one, and out of them again."""
        parts = [(first, data[:split]), (second, data[split:])]
        spans = [(address, len(part)) for address, part in parts]
        wrong = next((e for e in (self.expect(*span) for span in spans) if e[0]), (None, 0))
        fd = os.memfd_create("model")
        try:
            os.write(fd, data)
            count = self.attempt(*wrong, lambda: self.memory.readv(fd, spans, 0))
            if count is None:
                return
            assert count == len(data)
            for address, part in parts:
                self.poke(address, part)
            assert self.memory.writev(fd, spans, len(data)) == len(data)
            there = b"".join(self.peek(*span) for span in spans)
            assert os.pread(fd, len(data) + 1, len(data)) == there
        finally:
            os.close(fd)

    @rule(first=near, second=near, data=payloads.filter(bool), split=st.integers(0, 40))
    def messages(self, first, second, data, split):
        """One datagram into two places and out of them; a long one is cut, a short one is short."""
        parts = [(first, data[:split]), (second, data[split:])]
        spans = [(address, len(part)) for address, part in parts]
        wrong = next((e for e in (self.expect(*span) for span in spans) if e[0]), (None, 0))
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with left, right:
            left.send(data + b"cut")
            result = self.attempt(*wrong, lambda: self.memory.recvmsg(right, spans))
            if result is None:
                return
            assert result[0] == len(data)
            for address, part in parts:
                self.poke(address, part)
            assert self.memory.sendmsg(left, spans) == len(data)
            assert right.recv(100) == b"".join(self.peek(*span) for span in spans)

    @rule(address=near, value=st.integers(0, 255), tracked=st.booleans())
    def whole_region(self, address, value, tracked):
        """The last byte through a view of all of a region; a slot's marks nothing."""
        region = self.memory.find_region(address)
        if region is None:
            return
        marks = set(self.dirty)
        with region.memory if tracked else region.slot_memory as view:
            view[-1] = value
        self.poke(region.last_addr, bytes([value]))
        if not tracked:
            self.dirty = marks

    @rule(address=near)
    def merge(self, address):
        """A hypervisor's log says that the page of a region was written."""
        region = self.memory.find_region(address)
        if region is not None and region.dirty is not None:
            region.dirty.merge((1).to_bytes(8, "little"))
            self.dirty.add(region.start_addr)


TestMemoryModel = MemoryModel.TestCase
TestMemoryModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
