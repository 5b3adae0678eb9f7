"""Cursor: records in a row, its window, and a position that errors do not move."""

from __future__ import annotations

import doctest
import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from vm_memory import GuestAccessError, GuestMemory, InvalidGuestAddress, PartialBuffer, cursor
from vm_memory.cursor import Cursor, UnterminatedString

TOP = 2**64


@pytest.fixture
def memory():
    """Two adjacent regions, and one at the top of the address space."""
    with GuestMemory.from_ranges([(0, 0x1000), (0x1000, 0x1000), (TOP - 0x1000, 0x1000)]) as memory:
        yield memory


def test_examples_are_true():
    """The docstring's example runs."""
    result = doctest.testmod(cursor)
    assert result.attempted > 8
    assert result.failed == 0


def test_records_follow_each_other(memory):
    """Formats and compiled structs alike, packed and little-endian, across a border."""
    header = struct.Struct("<4sIB")
    writer = Cursor(memory, 0xFFB)
    writer.write(header, b"APIC", 0x01020304, 5)
    writer.write("<H", 0xBEEF)
    assert writer.position == 0xFFB + 9 + 2
    assert memory.read(0xFFB, 11) == b"APIC\x04\x03\x02\x01\x05\xef\xbe"
    reader = Cursor(memory, 0xFFB)
    assert reader.read(header) == (b"APIC", 0x01020304, 5)
    assert reader.read("<H") == (0xBEEF,)
    assert reader.position == writer.position


def test_bytes_of_any_buffer(memory):
    """Sizes are counted in bytes."""
    writer = Cursor(memory, 0x10)
    writer.write_bytes(array("I", [1, 2]))
    assert writer.position == 0x18
    assert Cursor(memory, 0x10).read_bytes(8) == bytes(array("I", [1, 2]))


def test_skip_and_align_move_without_touching(memory):
    """Also to where no memory is; an aligned position stays."""
    moving = Cursor(memory, 0x1FF1)
    moving.align(16)
    assert moving.position == 0x2000
    moving.align(0x1000)
    assert moving.position == 0x2000
    moving.skip(0x123)
    moving.skip(0)
    assert moving.position == 0x2123
    for alignment in (0, 3, -8):
        with pytest.raises(ValueError, match=f"power of two, which {alignment} is not"):
            moving.align(alignment)
    assert moving.position == 0x2123


def test_the_window_is_never_left(memory):
    """Nothing is read or written beyond it, and the error says how much is left."""
    window = Cursor(memory, 0x100, 6)
    assert window.remaining == 6
    window.write("<I", 0xFFFFFFFF)
    for access in (
        lambda: window.read("<I"),
        lambda: window.write("<I", 0xFFFFFFFF),
        lambda: window.read_bytes(3),
        lambda: window.write_bytes(b"abc"),
    ):
        with pytest.raises(PartialBuffer, match="at 0x104 can be reached: the range ends at 0x106"):
            access()
        assert (window.position, window.remaining) == (0x104, 2)
    assert memory.read(0x104, 4) == bytes(4)
    window.skip(10)
    assert window.remaining == 0
    with pytest.raises(PartialBuffer, match="only 0x0 of 0x1 bytes at 0x10e"):
        window.read_bytes(1)
    assert window.read_bytes(0) == b""
    assert repr(Cursor(memory, 0x100, 6)) == "<Cursor at 0x100, 0x6 bytes to go>"


def test_the_last_byte_of_the_address_space(memory):
    """Without a size, the window ends at 2^64."""
    last = Cursor(memory, TOP - 2)
    last.write("<H", 0x1234)
    assert (last.position, last.remaining) == (TOP, 0)
    assert Cursor(memory, TOP - 2).read("<H") == (0x1234,)
    with pytest.raises(PartialBuffer):
        last.read("<B")


def test_errors_leave_the_position(memory):
    """Of memory, of the format and of the values; nothing was written by the latter two."""
    for where, access, error in [
        (0x5000, lambda c: c.read("<Q"), InvalidGuestAddress),
        (0x5000, lambda c: c.write("<Q", 1), InvalidGuestAddress),
        (0x1FFE, lambda c: c.read("<I"), PartialBuffer),
        (0x1FFE, lambda c: c.write_bytes(b"abcd"), PartialBuffer),
        (0x1FF0, lambda c: c.read("<?!"), struct.error),
        (0x1FF0, lambda c: c.write("<BB", 1, 256), struct.error),
        (0x1FF0, lambda c: c.write("<BB", 1), struct.error),
        (0x1FF0, lambda c: c.skip(-1), ValueError),
        (0x1FF0, lambda c: c.read_bytes(-1), ValueError),
        (0x1FF0, lambda c: c.read_c_string(-1), ValueError),
    ]:
        moving = Cursor(memory, where)
        with pytest.raises(error):
            access(moving)
        assert moving.position == where
    assert memory.read(0x1FF0, 2) == bytes(2)
    with pytest.raises(ValueError, match="negative, as -1 is"):
        Cursor(memory, 0, -1)


def test_strings_end_at_nul(memory):
    """The NUL is consumed and not returned; the limit counts it."""
    memory.write(0x300, b"one\0\0two\0")
    strings = Cursor(memory, 0x300)
    assert [strings.read_c_string(4) for _ in range(3)] == [b"one", b"", b"two"]
    assert strings.position == 0x309


def test_a_string_without_end_is_the_guests_mistake(memory):
    """Within the limit, at the end of the window, at the end of memory; the position stays."""
    memory.write(0x1E00, b"x" * 0x200)
    strings = Cursor(memory, 0x1E00)
    for limit in (0, 0x10, 0x200):
        with pytest.raises(UnterminatedString, match=f"no NUL within {limit:#x} bytes") as caught:
            strings.read_c_string(limit)
        assert (caught.value.address, caught.value.limit) == (0x1E00, limit)
    with pytest.raises(PartialBuffer, match="only 0x200 of 0x201 bytes at 0x1e00"):
        strings.read_c_string(0x201)
    window = Cursor(memory, 0x1E00, 0x180)
    with pytest.raises(PartialBuffer, match="only 0x180 of 0x1000 bytes at 0x1e00"):
        window.read_c_string(0x1000)
    with pytest.raises(InvalidGuestAddress):
        Cursor(memory, 0x2000).read_c_string(8)
    assert strings.position == window.position == 0x1E00
    assert issubclass(UnterminatedString, GuestAccessError)


def test_a_string_may_end_in_the_last_byte_of_memory(memory):
    """The limit reaches beyond memory; the string does not."""
    memory.write(0x1FFD, b"ab\0")
    assert Cursor(memory, 0x1FFD).read_c_string(4096) == b"ab"


@given(length=st.integers(0, 900), limit=st.integers(0, 1000), before=st.integers(0, 40))
def test_strings_of_any_length(length, limit, before):
    """A string of `length` is found exactly if the limit has room for its NUL."""
    with GuestMemory.from_ranges([(0, 32), (32, 2000)]) as memory:
        memory.write(before, b"s" * length)
        strings = Cursor(memory, before)
        if length < limit:
            assert strings.read_c_string(limit) == b"s" * length
            assert strings.position == before + length + 1
        else:
            with pytest.raises(UnterminatedString):
                strings.read_c_string(limit)
            assert strings.position == before


class CursorModel(RuleBasedStateMachine):
    """A cursor beside a bytearray and an index."""

    @initialize(base=st.sampled_from([0, 0x10, TOP - 96]), room=st.integers(0, 80))
    def start(self, base, room):
        self.memory = GuestMemory.from_ranges([(base, 48), (base + 48, 48)])
        self.model, self.base, self.index, self.room = bytearray(96), base, 0, room
        self.cursor = Cursor(self.memory, base, room)

    def teardown(self):
        self.memory.close()

    @rule(fields=st.tuples(st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**64 - 1)))
    def write(self, fields):
        if self.index + 11 <= self.room:
            self.cursor.write("<BHQ", *fields)
            self.model[self.index : self.index + 11] = struct.pack("<BHQ", *fields)
            self.index += 11
        else:
            with pytest.raises(PartialBuffer):
                self.cursor.write("<BHQ", *fields)
        self.agree()

    @rule(size=st.integers(0, 20))
    def read(self, size):
        if self.index + size <= self.room or not size:
            assert self.cursor.read(f"<{size}s") == (self.model[self.index : self.index + size],)
            self.index += size
        else:
            with pytest.raises(PartialBuffer):
                self.cursor.read(f"<{size}s")
        self.agree()

    @rule(limit=st.integers(0, 30))
    def string(self, limit):
        end = self.model.find(0, self.index, min(self.index + limit, self.room))
        if end >= 0:
            assert self.cursor.read_c_string(limit) == self.model[self.index : end]
            self.index = end + 1
        else:
            with pytest.raises((PartialBuffer, UnterminatedString)):
                self.cursor.read_c_string(limit)
        self.agree()

    @rule(size=st.integers(0, 9))
    def skip(self, size):
        self.cursor.skip(size)
        self.index += size
        self.agree()

    @rule(index=st.integers(0, 80))
    def seek(self, index):
        self.cursor.position = self.base + index
        self.index = index

    def agree(self):
        assert self.cursor.position == self.base + self.index
        assert self.memory.read(self.base, 96) == self.model


TestCursorModel = CursorModel.TestCase
TestCursorModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
