"""PageTables: walks over tables that a builder of the test made, good ones and hostile ones."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm_memory import GuestAccessError, GuestMemory, InvalidGuestAddress, PartialBuffer
from vm_memory.page_tables import PageTables
from vm_memory.translation_errors import (
    BadPageTableEntry,
    NonCanonicalAddress,
    PageNotPresent,
    PageTableOutsideMemory,
    PageWalkError,
    ReservedBitsSet,
)

KIB4, MIB2, GIB1 = 1 << 12, 1 << 21, 1 << 30
P, W, U, PS, NX = 0x1, 0x2, 0x4, 0x80, 1 << 63
TABLES = 0x10_0000  # where the builder takes its tables from
KERNEL = 0xFFFF_8000_0000_0000
DEPTHS = {KIB4: 1, MIB2: 2, GIB1: 3}


class Builder:
    """Page tables in a megabyte of guest memory, made entry by entry from indices."""

    def __init__(self, levels=4):
        self.memory = GuestMemory.from_ranges([(0, 0x20_0000)])
        self.levels = levels
        self.free = TABLES
        self.root = self.take()

    def take(self):
        self.free += KIB4
        return self.free - KIB4

    def indices(self, virtual):
        """The index of each level, from the root on, out of the address as a string of bits."""
        bits = f"{virtual % (1 << 64):064b}"[-(12 + 9 * self.levels) :]
        return [int(bits[9 * n : 9 * n + 9], 2) for n in range(self.levels)]

    def put(self, table, index, value):
        self.memory.write(table + 8 * index, value.to_bytes(8, "little"))

    def get(self, table, index):
        return int.from_bytes(self.memory.read(table + 8 * index, 8), "little")

    def map(self, virtual, physical, size=KIB4, flags=P | W | U, above=P | W | U):
        """Maps a page; `flags` are its own, `above` those of new entries that lead there."""
        indices = self.indices(virtual)[: self.levels + 1 - DEPTHS[size]]
        table = self.root
        for index in indices[:-1]:
            if not self.get(table, index):
                self.put(table, index, self.take() | above)
            table = self.get(table, index) & 0xF_FFFF_FFFF_F000
        self.put(table, indices[-1], physical | flags | (PS if size != KIB4 else 0))

    def tables(self, **options):
        return PageTables(self.memory, self.root, **{"levels": self.levels} | options)


@pytest.fixture
def builder():
    builder = Builder()
    yield builder
    builder.memory.close()


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("size", [KIB4, MIB2, GIB1])
def test_a_page_of_each_size_translates(levels, size):
    """Offset within the page, page size, and one entry per level down to the one that maps it."""
    builder = Builder(levels)
    physical = 0x2_3456_C000_0000
    virtual = KERNEL + 5 * GIB1 + 7 * MIB2 * (size < GIB1) + 9 * KIB4 * (size < MIB2)
    builder.map(virtual, physical, size)
    for offset in (0, 0xABC, size - 1):
        page = builder.tables().translate(virtual + offset)
        assert page.virtual_address == virtual + offset
        assert page.physical_address == physical + offset
        assert page.page_size == size
        assert [entry.level for entry in page.entries] == list(range(levels, DEPTHS[size] - 1, -1))
        assert page.entries[0].address == builder.root + 8 * builder.indices(virtual)[0]
        assert all(e.value == builder.get(e.address, 0) for e in page.entries)
    assert (
        repr(page)
        == f"<PageTranslation {virtual + size - 1:#x} -> {physical + size - 1:#x} wux in {size:#x}>"
    )
    assert repr(page.entries[0]).startswith(f"<PageTableEntry level {levels} at 0x10")
    builder.memory.close()


def test_flags_of_cr3_and_of_entries_are_no_address(builder):
    """PCD, PWT, a process-context identifier; PAT, global, protection key and software bits."""
    ignored = 0x7FF0_0000_0000_0F78 & ~PS
    builder.map(0x7000, 0x3000, flags=P | PS | ignored, above=P | ignored)  # bit 7: PAT
    builder.map(0x40_0000, 0x60_0000, MIB2, flags=P | 1 << 12 | ignored)  # bit 12: PAT
    tables = PageTables(builder.memory, builder.root | 1 << 63 | 0xFFF)
    assert tables.translate(0x7123).physical_address == 0x3123
    assert tables.translate(0x40_1234).physical_address == 0x60_1234


@pytest.mark.parametrize("where", ["flags", "above"])
def test_permissions_are_what_every_entry_grants(builder, where):
    """Writing and user mode take all entries; one NX is enough to forbid execution."""
    for n, (flags, rights) in enumerate(
        {
            P | W | U: (True, True, True),
            P | U: (False, True, True),
            P | W: (True, False, True),
            P | W | U | NX: (True, True, False),
            P | NX: (False, False, False),
        }.items()
    ):
        virtual = n * GIB1
        builder.map(virtual, 0x5000, **{where: flags})
        page = builder.tables().translate(virtual)
        assert (page.writable, page.user, page.executable) == rights


@pytest.mark.parametrize(
    ("levels", "low", "high"),
    [(4, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000), (5, 0xFF_FFFF_FFFF_FFFF, 0xFF00_0000_0000_0000)],
)
def test_only_canonical_addresses_are_walked(levels, low, high):
    """The two halves end exactly there, and addresses are unsigned and of 64 bits."""
    builder = Builder(levels)
    tables = builder.tables()
    for address in (0, low, high, 2**64 - 1):
        with pytest.raises(PageNotPresent):
            tables.translate(address)
    for address in (low + 1, high - 1, 1 << 60, 2**64, -1, 2**64 + 0x1000):
        with pytest.raises(NonCanonicalAddress, match=f"{address:#x} is no canonical") as caught:
            tables.translate(address)
        assert caught.value.virtual_address == address
        assert caught.value.width == 12 + 9 * levels
    builder.memory.close()


def entry_path(builder, virtual):
    """(level, address of the entry) on the way to a 4 KiB page."""
    return [(e.level, e.address) for e in builder.tables().translate(virtual).entries]


@pytest.mark.parametrize("level", [5, 4, 3, 2, 1])
def test_an_entry_that_is_not_present_ends_the_walk(level):
    """Whatever its other bits are; the error names address, level, entry and value."""
    builder = Builder(5)
    builder.map(0x7000, 0x3000)
    address = dict(entry_path(builder, 0x7000))[level]
    builder.put(address, 0, 2**64 - 2)
    with pytest.raises(PageNotPresent) as caught:
        builder.tables().translate(0x7FFF)
    error = caught.value
    assert (error.virtual_address, error.level) == (0x7FFF, level)
    assert (error.entry_address, error.entry) == (address, 2**64 - 2)
    assert str(error) == (
        f"no translation of 0x7fff: the level {level} entry at {address:#x} "
        "is not present (0xfffffffffffffffe)"
    )
    builder.memory.close()


@pytest.mark.parametrize(
    ("level", "bits", "options"),
    [
        (5, PS, {}),
        (4, PS, {}),
        (3, PS | 1 << 13, {}),
        (3, PS | 1 << 29, {}),
        (2, PS | 1 << 13, {}),
        (2, PS | 1 << 20, {}),
        (5, NX, {"no_execute": False}),
        (1, NX, {"no_execute": False}),
        (4, 1 << 46, {"address_bits": 46}),
        (1, 1 << 51, {"address_bits": 51}),
        (3, PS | 1 << 40, {"address_bits": 40}),
    ],
)
def test_reserved_bits_end_the_walk(level, bits, options):
    """PS where there is no page, address bits inside a page, NX without NXE, beyond MAXPHYADDR."""
    builder = Builder(5)
    builder.map(0x7000, 0x3000)
    address = dict(entry_path(builder, 0x7000))[level]
    kept = 0xFFF if bits & PS else -1
    builder.put(address, 0, builder.get(address, 0) & kept | bits)
    with pytest.raises(
        ReservedBitsSet, match=f"level {level} entry at {address:#x} has res"
    ) as caught:
        builder.tables(**options).translate(0x7000)
    assert caught.value.level == level
    assert caught.value.entry & bits == bits
    builder.memory.close()


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_a_table_outside_of_memory_ends_the_walk(builder, level):
    """`entry` is the value that led there, `entry_address` where the next entry would be."""
    builder.map(0x7000, 0x3000)
    nowhere = 0x000F_FFFF_FFFF_F000
    tables = builder.tables()
    if level == 4:
        tables = PageTables(builder.memory, nowhere | 0x18)
        pointer = nowhere | 0x18
    else:
        pointer = nowhere | P
        builder.put(dict(entry_path(builder, 0x7000))[level + 1], 0, pointer)
    with pytest.raises(PageTableOutsideMemory, match="is outside of memory") as caught:
        tables.translate(0x7000)
    error = caught.value
    index = builder.indices(0x7000)[4 - level]
    assert (error.level, error.entry_address, error.entry) == (level, nowhere + 8 * index, pointer)
    assert isinstance(error.__cause__, InvalidGuestAddress)


def test_a_table_that_contains_itself_is_walked_once_per_level(builder):
    """The recursive mapping of some kernels: no more loads than levels."""
    builder.put(builder.root, 511, builder.root | P | W)
    loads = []

    class Counting:
        def load(self, address, size):
            loads.append((address, size))
            return builder.memory.load(address, size)

    page = PageTables(Counting(), builder.root).translate(2**64 - 8)
    assert page.physical_address == builder.root + 0xFF8
    assert loads == [(builder.root + 0xFF8, 8)] * 4


def test_impossible_processors_are_refused(builder):
    """Levels and widths that do not exist are the caller's mistake."""
    with pytest.raises(ValueError, match="4 or 5 levels, not 3"):
        builder.tables(levels=3)
    with pytest.raises(ValueError, match="32 to 52 bits, not 53"):
        builder.tables(address_bits=53)


def test_errors_of_a_walk_are_the_guests(builder):
    """Who serves a guest catches GuestAccessError alone."""
    assert issubclass(PageWalkError, GuestAccessError)
    assert issubclass(BadPageTableEntry, PageWalkError)
    assert issubclass(NonCanonicalAddress, PageWalkError)


def test_reads_and_writes_cross_pages(builder):
    """Two virtual neighbours that are far apart in physical memory; permissions do not matter."""
    builder.map(0x7000, 0x9000, flags=P)
    builder.map(0x8000, 0x3000, flags=P)
    tables = builder.tables()
    tables.write(0x7FFE, b"abcd")
    assert builder.memory.read(0x9FFE, 2) == b"ab"
    assert builder.memory.read(0x3000, 2) == b"cd"
    assert tables.read(0x7FFE, 4) == b"abcd"
    assert tables.read(1 << 60, 0) == b""
    tables.write(1 << 60, b"")
    with pytest.raises(ValueError, match="negative, as -1 is"):
        tables.read(0x7000, -1)


def test_the_first_byte_has_its_own_error_and_a_later_one_is_partial(builder):
    """As GuestMemory; the cause says why the walk ended."""
    builder.map(0x7000, 0x9000)
    builder.map(0xF000, 0x7000_0000)  # a page of a device
    tables = builder.tables()
    with pytest.raises(PageNotPresent):
        tables.read(0x8000, 4)
    with pytest.raises(InvalidGuestAddress, match="no guest memory at 0x70000010"):
        tables.write(0xF010, b"abcd")
    with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0x7ffe") as caught:
        tables.write(0x7FFE, b"abcd")
    assert isinstance(caught.value.__cause__, PageNotPresent)
    assert builder.memory.read(0x9FFE, 2) == b"ab"
    with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0x7ffe"):
        tables.read(0x7FFE, 4)


def test_a_page_that_memory_holds_in_part_is_read_as_far_as_it_goes(builder):
    """The memory ends inside of a large page."""
    builder.map(0x4000_0000, 0, MIB2)
    builder.map(0x7000, 0)
    builder.map(0x8000, 0x1000)
    with GuestMemory.from_ranges([(0, 0x1800), (TABLES, 0x10_0000)]) as memory:
        memory.write(TABLES, builder.memory.read(TABLES, 0x10_0000))
        tables = PageTables(memory, builder.root)
        with pytest.raises(PartialBuffer) as caught:
            tables.read(0x4000_0FFF, 0x2000)
        assert caught.value.completed == 0x1800 - 0xFFF
        with pytest.raises(PartialBuffer) as caught:
            tables.read(0x7000, 0x2000)
        assert (caught.value.address, caught.value.completed) == (0x7000, 0x1800)


def test_a_kept_error_borrows_nothing(builder):
    """A view of guest memory that was being written can be released, and the memory closed."""
    builder.map(0x7000, 0x9000)
    builder.map(0x8000, 0x7000_0000)
    source = builder.memory.view(0, 0x1000)
    with pytest.raises(PartialBuffer) as caught:
        builder.tables().write(0x7800, source)
    source.release()
    builder.memory.close()
    assert caught.value.completed == 0x800


PAGES = st.integers(0, 15)
RIGHTS = st.sampled_from([0, W, U, W | U, NX, W | U | NX])


@given(
    levels=st.sampled_from([4, 5]),
    pages=st.dictionaries(
        st.builds(
            lambda half, large, small: half + large * GIB1 + small * KIB4,
            st.sampled_from([0, KERNEL, 2**64 - 16 * GIB1]),
            st.integers(0, 3),
            st.integers(0, 40),
        ),
        st.tuples(st.integers(0, 2**40 - 1), RIGHTS),
        max_size=12,
    ),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_translations_agree_with_a_dictionary(levels, pages, data):
    """Random 4 KiB mappings: what was mapped is found with its rights, and nothing else is."""
    builder = Builder(levels)
    for virtual, (frame, rights) in pages.items():
        builder.map(virtual, frame * KIB4, flags=P | rights)
    tables = builder.tables()
    others = st.builds(lambda n: n * KIB4, st.integers(0, 2**35 - 1))
    for virtual in [*pages, data.draw(others)]:
        offset = data.draw(st.integers(0, KIB4 - 1))
        if virtual in pages:
            frame, rights = pages[virtual]
            page = tables.translate(virtual + offset)
            assert page.physical_address == frame * KIB4 + offset
            assert (page.writable, page.user) == (bool(rights & W), bool(rights & U))
            assert page.executable == (not rights & NX)
        else:
            with pytest.raises(PageNotPresent):
                tables.translate(virtual + offset)
    builder.memory.close()


@given(
    entries=st.lists(
        st.tuples(
            st.integers(0, 4 * 512 - 1),
            st.one_of(
                st.integers(0, 2**64 - 1),
                st.builds(
                    lambda n, bits: n * KIB4 | bits, st.integers(0, 4), st.integers(0, 0xFFF)
                ),
            ),
        ),
        max_size=40,
    ),
    virtual=st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 2**14)),
    cr3=st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 0x3FFF)),
    levels=st.sampled_from([4, 5]),
)
@settings(max_examples=200, deadline=None)
def test_hostile_tables_end_in_a_page_or_a_typed_error(entries, virtual, cr3, levels):
    """Random words as tables: never another exception, never more entries than levels."""
    with GuestMemory.from_ranges([(0, 4 * KIB4)]) as memory:
        for index, value in entries:
            memory.store(8 * index, value, 8)
        tables = PageTables(memory, cr3, levels=levels)
        with contextlib.suppress(PageWalkError):
            page = tables.translate(virtual)
            assert len(page.entries) <= levels
            assert page.physical_address % KIB4 == virtual % KIB4
