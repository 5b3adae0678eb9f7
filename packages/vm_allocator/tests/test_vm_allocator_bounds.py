"""What a search may look at, counted and not timed: no search walks the gaps one by one."""

from __future__ import annotations

import pytest

from vm_allocator import (
    AddressAllocator,
    BestFit,
    FirstMatch,
    LastMatch,
    NoFreeRange,
    Range,
    _btree,
)

PAGE = 0x1000
GAPS = 5000
#: A few changed leaves and the nodes above them, each with at most this many pieces or children.
FEW = 16 * _btree.ORDER
POLICIES = [FirstMatch, LastMatch, BestFit]


@pytest.fixture
def steps(monkeypatch):
    """A function that counts the nodes entered and the pieces measured during a call."""
    taken = []

    def counted(function):
        def wrapper(*arguments):
            taken.append(function)
            return function(*arguments)

        return wrapper

    monkeypatch.setattr(_btree, "usable", counted(_btree.usable))
    for node in (_btree.Leaf, _btree.Inner):
        for name in ("seek", "usable", "widest"):
            monkeypatch.setattr(node, name, counted(getattr(node, name)))

    def count(function, *arguments, **keywords):
        taken.clear()
        function(*arguments, **keywords)
        return len(taken)

    return count


def space_without_a_whole_page():
    """Every second page border is in use: gaps of nearly two pages, no page of which is free."""
    space = AddressAllocator(0, 2 * GAPS * PAGE)
    space.reserve(Range(0, 0))
    for index in range(1, GAPS):
        space.reserve(Range.sized(2 * index * PAGE - 1, 2))
    space.reserve(Range(space.end, space.end))
    return space


@pytest.mark.parametrize("policy", POLICIES)
def test_misaligned_gaps_are_not_tried_in_turn(policy, steps):
    """5,000 gaps that are large enough but badly aligned cost a search only what has changed."""
    space = space_without_a_whole_page()
    with pytest.raises(NoFreeRange, match="the largest gap has 0x1ffe"):
        space.allocate(PAGE, PAGE, policy)
    for index in range(100, GAPS, 100):
        border = Range.sized(2 * index * PAGE - 1, 2)
        space.free(border)
        assert steps(space.allocate, PAGE, PAGE, policy) < FEW
        while space.find(border.start) is None or space.find(border.end) is None:
            space.allocate(PAGE, PAGE, policy)  # the other page that `free` made whole


@pytest.mark.parametrize(
    ("policy", "lowest"),
    [(FirstMatch, 0), (BestFit, 0), (LastMatch, 2 * PAGE), (BestFit, 2 * PAGE)],
)
def test_small_gaps_are_not_tried_in_turn(policy, lowest, steps):
    """20,000 gaps that are too small do not stand before the one at the far end that is not."""
    space = AddressAllocator(0, (2 * 20_000 + 1) * PAGE)
    for index in range(20_000):
        space.reserve(Range.sized(lowest + 2 * index * PAGE, PAGE))
    assert steps(space.allocate, 2 * PAGE, PAGE, policy) < 20


def test_best_fit_does_not_try_what_is_outside_its_window(steps):
    """Thousands of smaller gaps that fit, but outside the window, cost one look at a window."""
    space = AddressAllocator(0, 4 * GAPS * PAGE)
    for index in range(GAPS):
        space.reserve(Range.sized(2 * index * PAGE + index % 100, 1))
    window = Range(3 * GAPS * PAGE, space.end)
    first = space.allocate(PAGE, PAGE, BestFit, within=window)
    assert first.start == window.start
    for _ in range(20):
        assert steps(space.allocate, PAGE, PAGE, BestFit, within=window) < FEW


def test_the_widest_gap_of_a_window_is_not_searched_for_everywhere(steps):
    """A refusal looks at the borders of its window and at what nodes know already."""
    space = space_without_a_whole_page()
    window = Range(PAGE, 2 * GAPS * PAGE - PAGE)
    with pytest.raises(NoFreeRange):
        space.allocate(PAGE, PAGE, within=window)

    def refused():
        with pytest.raises(NoFreeRange):
            space.allocate(PAGE, PAGE, within=window)

    assert steps(refused) < FEW


def test_the_widest_gap_of_a_window_takes_four_nodes_a_level(steps, monkeypatch):
    """Two at the borders of the window, and beside each one that lies in the window as a whole."""
    monkeypatch.setattr(_btree, "ORDER", 4)
    monkeypatch.setattr(_btree, "MINIMUM", 2)
    tree = space_without_a_whole_page()._map._tree
    depth, node = 1, tree.root
    while isinstance(node, _btree.Inner):
        depth, node = depth + 1, node.children[0]
    assert depth > 5
    pieces_of_two_leaves = 2 * _btree.ORDER
    for first in (0, 1, PAGE, 999 * PAGE):
        for tail in (2 * GAPS * PAGE, 2 * GAPS * PAGE - 1, 1234 * PAGE):
            assert tree.widest(first, tail) == 2 * PAGE - 2
            assert steps(tree.widest, first, tail) <= 4 * depth + pieces_of_two_leaves


def test_as_many_pairs_as_nodes_remember_may_be_asked_for_in_turn(steps):
    """Alignments and windows up to the bound stay known, so none looks at every gap again."""
    space = space_without_a_whole_page()

    def refused(index):
        with pytest.raises(NoFreeRange):
            space.allocate(PAGE, PAGE, BestFit, within=Range(index, space.end - index))

    for index in range(_btree.MAX_FITS):
        refused(index)
    for index in range(_btree.MAX_FITS):
        assert steps(refused, index) < FEW


def test_what_nodes_remember_is_bounded():
    """A caller with a new window each time does not make the tree grow."""
    space = space_without_a_whole_page()
    for index in range(3 * _btree.MAX_FITS):
        with pytest.raises(NoFreeRange):
            space.allocate(PAGE, PAGE, BestFit, within=Range(index, space.end - index))
    nodes = [*space._map._by_size._tree.nodes(), *space._map._tree.nodes()]
    assert max(len(node.remembered) for node in nodes) == _btree.MAX_FITS
