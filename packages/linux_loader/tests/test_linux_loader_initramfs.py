"""Where an initramfs goes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux_loader import InitramfsTooLarge, load_initramfs
from vm_memory import GuestMemory

MIB = 1 << 20
PAGE = 4096


def test_it_goes_to_the_top_of_ram(memory):
    """The last page-aligned place that holds it, with its bytes there."""
    address, size = load_initramfs(memory, b"x" * 5000)
    assert (address, size) == (64 * MIB - 2 * PAGE, 5000)
    assert memory.read(address, size) == b"x" * 5000


def test_a_file_is_loaded_as_bytes_are(memory, tmp_path):
    """A path gives the same place and content."""
    path = tmp_path / "initramfs"
    path.write_bytes(b"cpio" * 3000)
    assert load_initramfs(memory, path) == (64 * MIB - 3 * PAGE, 12000)
    assert memory.read(64 * MIB - 3 * PAGE, 12000) == b"cpio" * 3000


def test_it_stays_at_or_below_highest(memory):
    """`highest` is the last address that it may touch."""
    assert load_initramfs(memory, b"x" * PAGE, highest=32 * MIB - 1) == (32 * MIB - PAGE, PAGE)
    assert load_initramfs(memory, b"x" * PAGE, highest=32 * MIB - 2)[0] == 32 * MIB - 2 * PAGE


def test_the_default_limit_is_a_kernels():
    """No kernel finds an initramfs above 2 GiB unless it says so."""
    with GuestMemory.from_ranges([(0, 3 << 30), (4 << 30, 1 << 30)]) as memory:
        assert load_initramfs(memory, b"x")[0] == 0x7FFF_F000
        assert load_initramfs(memory, b"x", highest=(1 << 64) - 1)[0] == (5 << 30) - PAGE


def test_it_avoids_what_is_taken(memory):
    """Taken ranges push it down, past every one of them."""
    taken = [(64 * MIB - PAGE, 64 * MIB), (60 * MIB, 64 * MIB - 2 * PAGE + 1)]
    assert load_initramfs(memory, b"x" * PAGE, avoid=taken)[0] == 60 * MIB - PAGE


def test_empty_ranges_are_no_obstacle(memory):
    """A range that holds nothing is nothing to avoid."""
    assert load_initramfs(memory, b"x", avoid=[(64 * MIB - 1, 64 * MIB - 1), (9, 1)])


def test_it_may_cross_adjacent_regions():
    """Adjacent regions are one range of RAM; a hole between them is not crossed."""
    with GuestMemory.from_ranges([(0, 4 * MIB), (4 * MIB, PAGE), (8 * MIB, PAGE)]) as memory:
        assert load_initramfs(memory, b"xy" * PAGE)[0] == 4 * MIB - PAGE
        assert memory.read(4 * MIB - PAGE, 2 * PAGE) == b"xy" * PAGE


def test_low_memory_is_left_alone():
    """Below 1 MiB are the boot structures."""
    with GuestMemory.from_ranges([(0, MIB + PAGE)]) as memory:
        assert load_initramfs(memory, b"x")[0] == MIB
        with pytest.raises(InitramfsTooLarge):
            load_initramfs(memory, b"x" * (PAGE + 1))


def test_too_large_says_how_large(memory):
    """The error carries the size and the limit, and writes nothing."""
    with pytest.raises(InitramfsTooLarge, match="more memory") as raised:
        load_initramfs(memory, bytes(64 * MIB), highest=48 * MIB)
    assert (raised.value.size, raised.value.highest) == (64 * MIB, 48 * MIB)


PAGES = 48  # the model's RAM: pages from 1 MiB up


@settings(deadline=None)
@given(
    present=st.lists(st.booleans(), min_size=PAGES, max_size=PAGES),
    pages=st.integers(1, 12),
    slack=st.integers(0, PAGE - 1),
    highest=st.integers(0, (PAGES + 4) * PAGE),
    avoid=st.lists(st.tuples(st.integers(0, PAGES * PAGE), st.integers(0, 4 * PAGE)), max_size=4),
)
def test_place_agrees_with_a_naive_search(present, pages, slack, highest, avoid):
    """The place is the highest page whose whole run of pages is RAM, allowed and free."""
    size = pages * PAGE - slack
    taken = [(MIB + start, MIB + start + length) for start, length in avoid]

    def usable(page: int) -> bool:
        start, end = MIB + page * PAGE, MIB + (page + 1) * PAGE
        return (
            page < PAGES
            and present[page]
            and end - 1 <= MIB + highest
            and not any(low < end and start < high for low, high in taken if low < high)
        )

    expected = next(
        (
            MIB + page * PAGE
            for page in reversed(range(PAGES))
            if all(usable(page + i) for i in range(pages))
        ),
        None,
    )
    ranges = [(MIB + i * PAGE, PAGE) for i, there in enumerate(present) if there]
    with GuestMemory.from_ranges(ranges or [(1 << 40, PAGE)]) as memory:
        try:
            found = load_initramfs(memory, b"x" * size, highest=MIB + highest, avoid=taken)[0]
        except InitramfsTooLarge:
            found = None
    assert found == expected
