"""DirtyBitmap and dirty_runs against a set of page numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vm_memory import DirtyBitmap
from vm_memory.dirty import dirty_runs

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


@given(st.lists(st.booleans(), max_size=300), st.booleans())
def test_runs_are_the_set_bits(bits, full):
    """The runs name each set page once, in order, and no two of them touch."""
    bits = bits + [False] * (-len(bits) % 64) + [full] * 64
    log = sum(1 << page for page, bit in enumerate(bits) if bit).to_bytes(len(bits) // 8, "little")
    runs = list(dirty_runs(log))
    assert [page for first, count in runs for page in range(first, first + count)] == [
        page for page, bit in enumerate(bits) if bit
    ]
    assert all(a + n < b for (a, n), (b, _) in pairwise(runs))
    assert all(count > 0 for _, count in runs)
