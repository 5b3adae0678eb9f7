"""hexdump and search: against a reader that looks at one byte at a time."""

from __future__ import annotations

import doctest
import itertools
import re
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm_memory import GuestMemory, inspection
from vm_memory.inspection import hexdump, search

TOP = 2**64
SMALL_CHUNK = 32  # so that small examples have borders of chunks, too


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(inspection, "_CHUNK", SMALL_CHUNK)


@pytest.fixture
def memory():
    """Two adjacent regions, a hole, a third, and one at the top of the address space."""
    with GuestMemory.from_ranges(
        [(0, 0x1000), (0x1000, 0x1000), (0x3000, 0x1000), (TOP - 0x1000, 0x1000)]
    ) as memory:
        yield memory


def test_examples_are_true():
    """The docstrings' examples run."""
    result = doctest.testmod(inspection)
    assert result.attempted > 6
    assert result.failed == 0


def test_a_line_has_address_hexadecimal_and_ascii(memory):
    """Only printable ASCII is shown as itself; a short last line keeps its columns."""
    memory.write(0x10, bytes([0x1F, 0x20, 0x7E, 0x7F, 0x80, 0xFF]) + b"|abcdefghijk")
    assert hexdump(memory, 0x10, 18).splitlines() == [
        "0000000000000010  1f 20 7e 7f 80 ff 7c 61  62 63 64 65 66 67 68 69  |. ~...|abcdefghi|",
        "0000000000000020  6a 6b                                             |jk|",
    ]


def test_repeated_lines_collapse_up_to_the_last(memory):
    """One star for any number of them; what follows starts anew."""
    memory.write(0x100, b"A" * 64 + b"B" * 16 + b"A" * 16)
    dump = hexdump(memory, 0x100, 96).splitlines()
    assert [line[:16] + line[-18:] if line != "*" else line for line in dump] == [
        "0000000000000100|AAAAAAAAAAAAAAAA|",
        "*",
        "0000000000000140|BBBBBBBBBBBBBBBB|",
        "0000000000000150|AAAAAAAAAAAAAAAA|",
    ]
    assert [line[:16] for line in hexdump(memory, 0x100, 64).splitlines()] == [
        "0000000000000100",
        "*",
        "0000000000000130",
    ]


def test_holes_are_told_and_do_not_fail(memory):
    """Before, between, behind memory, and where there is none at all."""
    assert hexdump(memory, 0x2FF0, 0x20).splitlines() == [
        "0000000000002ff0  no memory up to 0x2fff",
        "0000000000003000  " + "00 " * 8 + " " + "00 " * 8 + " |................|",
    ]
    assert hexdump(memory, 0x2000, 0x10) == "0000000000002000  no memory up to 0x200f"
    assert hexdump(memory, TOP, 1) == "10000000000000000  no memory up to 0x10000000000000000"
    assert hexdump(memory, 0x2000, 0) == ""
    lines = hexdump(memory, 0, TOP).splitlines()
    assert [line for line in lines if "no memory" in line] == [
        "0000000000002000  no memory up to 0x2fff",
        "0000000000004000  no memory up to 0xffffffffffffefff",
    ]
    assert lines[-1].startswith("fffffffffffffff0  00")
    assert len(lines) == 11


def test_sizes_are_not_negative(memory):
    """The caller's mistake, as everywhere in this package."""
    with pytest.raises(ValueError, match="negative, as -1 is"):
        hexdump(memory, 0, -1)


def test_matches_cross_adjacent_regions_but_no_hole(memory):
    """A border is invisible; bytes on both sides of a hole are no match."""
    memory.write(0xFFD, b"needle")
    memory.write(0x1FFD, b"nee")
    memory.write(0x3000, b"dle")
    assert list(search(memory, b"needle")) == [0xFFD]


def test_matches_overlap(memory):
    """Every address at which the pattern lies, not every second."""
    memory.write(0x3000, b"aaaa")
    assert list(search(memory, b"aa", 0x3000, 0x4000)) == [0x3000, 0x3001, 0x3002]


def test_a_match_lies_in_the_range_as_a_whole(memory):
    """`start` is its first possible byte, `end` is behind its last one."""
    memory.write(0x500, b"abc")
    memory.write(TOP - 3, b"abc")
    assert list(search(memory, b"abc")) == [0x500, TOP - 3]
    assert list(search(memory, b"abc", 0x500, 0x503)) == [0x500]
    assert list(search(memory, b"abc", 0x501)) == [TOP - 3]
    assert list(search(memory, b"abc", 0, 0x502)) == []
    assert list(search(memory, b"abc", 0x600, 0x500)) == []


def test_an_empty_pattern_is_refused_at_the_call(memory):
    """Not only when the first match is asked for."""
    with pytest.raises(ValueError, match="empty pattern"):
        search(memory, b"")


def test_any_buffer_is_a_pattern(memory):
    """As bytes, whatever its items are; one longer than a chunk, too."""
    memory.write(0x200, array("I", range(1, 40)))
    assert list(search(memory, array("I", [3, 4]))) == [0x208]
    assert list(search(memory, array("I", range(1, 40)))) == [0x200]


def test_a_search_copies_bounded_pieces_and_borrows_nothing(memory, monkeypatch):
    """The first match is there before the rest of memory was read; memory can be closed."""
    sizes = []
    read = GuestMemory.read
    monkeypatch.setattr(
        GuestMemory, "read", lambda self, *range_: sizes.append(range_[1]) or read(self, *range_)
    )
    found = search(memory, b"\0\0\0")
    assert next(found) == 0
    assert sizes == [SMALL_CHUNK + 2]
    memory.close()


layouts = st.lists(
    st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=90)), min_size=1, max_size=4
)


def make(layout, base):
    """Memory of the pieces, each behind a gap; and a dictionary of its bytes."""
    model, ranges, position = {}, [], base
    for gap, data in layout:
        position += gap
        ranges.append((position, len(data)))
        model.update(enumerate(data, position))
        position += len(data)
    memory = GuestMemory.from_ranges(ranges)
    for (start, _size), (_gap, data) in zip(ranges, layout, strict=True):
        memory.write(start, data)
    return memory, model


@given(
    layout=st.lists(
        st.tuples(
            st.sampled_from([0, 0, 5]),
            st.lists(st.sampled_from(b"ab"), min_size=1, max_size=90).map(bytes),
        ),
        min_size=1,
        max_size=4,
    ),
    pattern=st.lists(st.sampled_from(b"ab"), min_size=1, max_size=7).map(bytes),
    start=st.integers(-5, 60),
    size=st.integers(-5, 300),
)
def test_search_finds_what_a_slow_reader_finds(layout, pattern, start, size):
    """Any layout, pattern and range."""
    memory, model = make(layout, 0)
    with memory:
        expected = [
            address
            for address in range(start, start + size - len(pattern) + 1)
            if all(model.get(address + n) == byte for n, byte in enumerate(pattern))
        ]
        assert list(search(memory, pattern, start, start + size)) == expected


@given(
    layout=layouts,
    base=st.sampled_from([0, 0x1000, TOP - 600]),
    before=st.integers(0, 40),
    size=st.integers(0, 600),
)
def test_a_dump_holds_every_byte_of_the_range(layout, base, before, size):
    """Read back from the text, stars filled in, it is the memory; the rest is told as holes."""
    memory, model = make(layout, base)
    address = base - before
    with memory:
        found, holes, pending = {}, set(), None
        for line in hexdump(memory, address, size).splitlines():
            if line == "*":
                pending = max(found)
                continue
            here = int(line[:16], 16)
            if pending is not None:
                repeated = [found[pending - 15 + n] for n in range(16)]
                found.update(zip(range(pending + 1, here), itertools.cycle(repeated)))
                pending = None
            if hole := re.search("no memory up to (.*)", line):
                holes |= set(range(here, int(hole[1], 16) + 1))
            else:
                found.update(enumerate(bytes.fromhex(line[18:66]), here))
        wanted = range(address, address + size)
        assert found == {n: model[n] for n in wanted if n in model}
        assert holes == {n for n in wanted if n not in model}


def test_closed_memory_is_no_hole():
    """As every other access, and not "no memory"."""
    memory = GuestMemory.from_ranges([(0, 0x1000)])
    memory.close()
    with pytest.raises(ValueError, match="is closed"):
        hexdump(memory, 0, 16)
    with pytest.raises(ValueError, match="is closed"):
        list(search(memory, b"x"))


def test_a_pattern_is_bytes():
    """A number is none, though bytes(4) would be four zeros."""
    with GuestMemory.from_ranges([(0, 0x1000)]) as memory, pytest.raises(TypeError):
        search(memory, 4)
