"""DirtyBitmap and dirty_runs against a set of page numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vm_memory import DIRTY_PAGE_SIZE as PAGE
from vm_memory import DirtyBitmap, GuestMemory

SIZE = 8 * 150  # more than two words of bits
offsets = st.integers(0, SIZE - 1)
sizes = st.one_of(st.integers(0, 40), st.integers(0, SIZE))


def words(page_numbers):
    """A log with exactly these pages."""
    bits = sum(1 << page for page in page_numbers)
    return bits.to_bytes(24, "little")


class BitmapModel(RuleBasedStateMachine):
    """Pages of 8 bytes."""

    @initialize(size=st.integers(SIZE - 7, SIZE))
    def start(self, size):
        self.size = size
        self.bitmap = DirtyBitmap(size, 8)
        self.model = set()

    def touched(self, offset, size):
        """The range cut to what exists, and its pages."""
        offset = min(offset, self.size - 1)
        size = min(size, self.size - offset)
        return offset, size, {position // 8 for position in range(offset, offset + size)}

    @rule(offset=offsets, size=sizes)
    def mark(self, offset, size):
        offset, size, touched = self.touched(offset, size)
        self.bitmap.mark(offset, size)
        self.model |= touched

    @rule(offset=offsets, size=sizes)
    def reset(self, offset, size):
        offset, size, touched = self.touched(offset, size)
        self.bitmap.reset(offset, size)
        self.model -= touched

    @rule(log=st.sets(st.integers(0, 191)))
    def merge(self, log):
        self.bitmap.merge(words(log))
        self.model |= {page for page in log if page < len(self.bitmap)}

    @rule()
    def harvest(self):
        assert self.bitmap.get_and_reset() == words(self.model)
        self.model = set()

    @rule(offset=offsets)
    def ask(self, offset):
        offset = min(offset, self.size - 1)
        assert self.bitmap.is_dirty(offset) == (offset // 8 in self.model)

    @invariant()
    def agree(self):
        assert self.bitmap.snapshot() == words(self.model)


TestBitmapModel = BitmapModel.TestCase


@given(st.lists(st.booleans(), max_size=200), st.booleans(), st.integers(1, 130))
def test_harvests_are_the_runs_of_dirty_pages(bits, full, border):
    """Each dirty page is in one piece, in order, and no two pieces touch, also across a border."""
    bits = bits + [full] * 64
    border = min(border, len(bits) - 1)
    parts = [bits[:border], bits[border:]]
    with GuestMemory.from_ranges(
        [(0, border * PAGE), (border * PAGE, (len(bits) - border) * PAGE)], track_dirty=True
    ) as memory:
        for region, part in zip(memory.regions, parts, strict=True):
            log = sum(1 << page for page, bit in enumerate(part) if bit)
            region.dirty.merge(log.to_bytes(-(-len(part) // 64) * 8, "little"))
        pieces = memory.get_and_reset_dirty()
        assert memory.get_and_reset_dirty() == []
    found = [
        page for start, size in pieces for page in range(start // PAGE, (start + size) // PAGE)
    ]
    assert found == [page for page, bit in enumerate(bits) if bit]
    assert all(a + n < b for (a, n), (b, _) in pairwise(pieces))
    assert all(size > 0 for _, size in pieces)
