"""The allocators against models so naive that they are obviously right."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vm_allocator import (
    AddressAllocator,
    Allocation,
    AllocatorError,
    AlreadyReleased,
    BestFit,
    ExactMatch,
    FirstMatch,
    IdAllocator,
    IdInUse,
    IdOutOfRange,
    LastMatch,
    NeverAllocated,
    NoFreeId,
    NoFreeRange,
    NotAllocated,
    OutOfRange,
    Overlap,
    PartialFree,
    Range,
    UnalignedAddress,
    _btree,
)

SIZE = 160
alignments = st.sampled_from([1, 1, 2, 4, 8, 16, 64])
sizes = st.integers(1, 14)
places = st.integers(-2, SIZE + 2)
indices = st.integers(0, SIZE - 1)


def check_node(node, *, is_root=True):
    """Assert what must be true of a node and of all below it; return its depth."""
    assert node.keys == sorted(set(node.keys))
    assert len(node.keys) <= _btree.ORDER
    assert is_root or len(node.keys) >= _btree.MINIMUM
    assert {len(column) for column in node.columns()} == {len(node.keys)}
    entries = list(entries_below(node))
    for fit, remembered in node.remembered.items():
        parts = [_btree.usable(fit, low, gap) for _, low, gap in entries if gap]
        assert max(remembered, 0) == max([0, *parts])
    if isinstance(node, _btree.Leaf):
        return 0
    assert node.keys == [child.keys[0] for child in node.children]
    assert node.gaps == [max(child.gaps) for child in node.children]
    (depth,) = {check_node(child, is_root=False) for child in node.children}
    return depth + 1


def entries_below(node):
    """Key, low and gap of every entry below a node, in order."""
    if isinstance(node, _btree.Leaf):
        yield from zip(node.keys, node.lows, node.gaps, strict=True)
    else:
        for child in node.children:
            yield from entries_below(child)


def start_of(one):
    return one.start


def distance(one, other):
    """How far two ranges that do not overlap are from each other."""
    return max(one.start - other.end, other.start - one.end)


class AddressModel(RuleBasedStateMachine):
    """One cell per address, holding its allocation or None; every search tries every address."""

    @initialize(
        base=st.sampled_from([0, 1, 0x1003, 2**64 - SIZE - 1, 2**64 - SIZE]),
        order=st.sampled_from([4, 5, 8, 48]),
    )
    def start(self, base, order):
        self.orders = _btree.ORDER, _btree.MINIMUM
        _btree.ORDER, _btree.MINIMUM = order, order // 2  # small nodes: a deep tree of few entries
        self.base = base
        self.space = AddressAllocator(base, SIZE)
        self.cells = dict.fromkeys(range(base, base + SIZE))
        self.live = []

    def teardown(self):
        if hasattr(self, "orders"):
            _btree.ORDER, _btree.MINIMUM = self.orders

    def fits(self, start, size, window):
        return (
            start in window
            and start + size - 1 in window
            and all(self.cells[a] is None for a in range(start, start + size))
        )

    def take(self, taken, owner):
        self.live.append(taken)
        for address in range(taken.start, taken.end + 1):
            self.cells[address] = (taken, owner)

    def window(self, first, last):
        low, high = sorted((first, last))
        return Range(self.base + low, self.base + high)

    def pieces(self, window):
        """(size, start) of every free piece of a window, in address order."""
        pieces, size = [], 0
        for address in [*window, None]:
            if address in self.cells and self.cells[address] is None:
                size += 1
                continue
            if size:
                pieces.append((size, (window[-1] + 1 if address is None else address) - size))
            size = 0
        return pieces

    def best(self, places):
        """The first of `places` in the smallest piece of the whole space that has any."""
        whole = sorted(self.pieces(range(self.base, self.base + SIZE)))
        found = [[a for a in places if start <= a < start + size] for size, start in whole]
        return next(inside[0] for inside in found if inside)

    @rule(
        size=sizes,
        alignment=alignments,
        policy=st.sampled_from([FirstMatch, LastMatch, BestFit]),
        first=indices,
        last=indices,
        whole=st.booleans(),
    )
    def allocate(self, size, alignment, policy, first, last, whole):
        within = None if whole else self.window(first, last)
        window = (
            range(self.base, self.base + SIZE) if whole else range(within.start, within.end + 1)
        )
        found = [a for a in window if a % alignment == 0 and self.fits(a, size, window)]
        if not found:
            with pytest.raises(NoFreeRange) as caught:
                self.space.allocate(size, alignment, policy, within=within)
            widest = max(self.pieces(window), default=None, key=lambda piece: piece[0])
            assert caught.value.gap == (widest and Range.sized(widest[1], widest[0]))
            assert caught.value.obstacle == self.beside(caught.value.gap, window)
            return
        taken = self.space.allocate(size, alignment, policy, owner="auto", within=within)
        start = {FirstMatch: found[0], LastMatch: found[-1], BestFit: self.best(found)}[policy]
        assert taken == Range.sized(start, size)
        self.take(taken, "auto")

    def beside(self, gap, window):
        """What ends a gap of a window, or is before it; if it has none, what it begins in."""
        address = window[0] if gap is None else gap.end + 1
        if address not in window and gap is not None:
            address = gap.start - 1
        return Allocation(*self.cells[address]) if address in window else None

    @rule(
        size=sizes,
        alignment=alignments,
        place=places,
        first=indices,
        last=indices,
        whole=st.booleans(),
    )
    def allocate_exactly(self, size, alignment, place, first, last, whole):
        address = self.base + place
        within = None if whole else self.window(first, last)
        window = (
            range(self.base, self.base + SIZE) if whole else range(within.start, within.end + 1)
        )
        obstacle = None
        if address % alignment:
            expected = UnalignedAddress
        elif address not in window or address + size - 1 not in window:
            expected = OutOfRange
        elif not self.fits(address, size, window):
            expected = Overlap
            cells = (self.cells[one] for one in range(address, address + size))
            obstacle = Allocation(*next(filter(None, cells)))
        else:
            taken = self.space.allocate(
                size, alignment, ExactMatch(address), owner="exact", within=within
            )
            assert taken == Range.sized(address, size)
            self.take(taken, "exact")
            return
        with pytest.raises(expected) as caught:
            self.space.allocate(size, alignment, ExactMatch(address), within=within)
        assert getattr(caught.value, "obstacle", None) == obstacle

    @rule(first=indices, step=st.integers(1, 5), count=st.integers(1, 40))
    def reserve_every_few(self, first, step, count):
        """Many small holes, and nodes that split."""
        for address in list(self.cells)[first :: step + 1][:count]:
            if self.cells[address] is None:
                self.space.reserve(Range.sized(address, 1))
                self.take(Range.sized(address, 1), "")

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 12))
    def free(self, data, count):
        for _ in range(min(count, len(self.live))):
            taken = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
            self.space.free(taken)
            for address in range(taken.start, taken.end + 1):
                self.cells[address] = None

    @rule(start=indices, size=sizes)
    def free_what_is_not_exactly_a_range(self, start, size):
        wrong = Range.sized(self.base + start, size) if self.base + start + size <= 2**64 else None
        if wrong is None or wrong in self.live:
            return
        expected, named = self.why_not_free(wrong)
        with pytest.raises(AllocatorError) as caught:
            self.space.free(wrong)
        assert type(caught.value) is expected
        found = getattr(caught.value, "allocation", None) or getattr(caught.value, "nearest", None)
        assert found == named

    def why_not_free(self, wrong):
        """The error of a wrong range, and the range in use that it names."""
        if not self.space.space.contains(wrong):
            return OutOfRange, None
        used = [Allocation(*self.cells[one.start]) for one in sorted(self.live, key=start_of)]
        touched = [one for one in used if one.range.overlaps(wrong)]
        if touched:
            return PartialFree, touched[0]
        return NotAllocated, min(used, default=None, key=lambda one: distance(one.range, wrong))

    @rule()
    def save_and_restore(self):
        """The copy takes the place of what it is a copy of."""
        restored = AddressAllocator.restore(self.space.save())
        assert restored == self.space
        self.space = restored

    @invariant()
    def listings_agree(self):
        if not hasattr(self, "space"):
            return
        free = [a for r in self.space.free_ranges() for a in range(r.start, r.end + 1)]
        assert free == [a for a, owner in self.cells.items() if owner is None]
        assert self.space.available == len(free)
        used = self.space.used()
        assert [u.range for u in used] == sorted(self.live, key=lambda r: r.start)
        for address, cell in self.cells.items():
            found = self.space.find(address)
            assert (found and (found.range, found.owner)) == cell

    @invariant()
    def trees_are_in_order(self):
        if not hasattr(self, "space"):
            return
        map_ = self.space._map
        check_node(map_._tree.root)
        entries = list(map_._tree.entries())
        assert entries[0][:2] == (_btree.HEAD, self.base)
        ends = [key for key, _, _ in entries[1:]] + [self.base + SIZE]
        assert [low + gap for _, low, gap in entries] == ends
        if map_._by_size is not None:
            check_node(map_._by_size._tree.root)
            by_size = [(gap, low) for _, low, gap in map_._by_size._tree.entries()]
            assert by_size[1:] == sorted((gap, low) for low, gap in map_.pieces())


@pytest.mark.parametrize("policy", [FirstMatch, LastMatch, BestFit])
def test_a_large_tree_stays_in_order(policy):
    """Nodes of the real order, three levels of them, filled and emptied at random."""
    draw = random.Random(1)  # noqa: S311 - a test's choice
    space = AddressAllocator(0x1000, 1 << 20)
    live = []
    for goal in (9000, 200, 5000, 0):
        while len(live) != goal:
            if len(live) > goal or (live and draw.random() < 0.3):
                space.free(live.pop(draw.randrange(len(live))))
            else:
                live.append(space.allocate(draw.randrange(1, 60), draw.choice([1, 16]), policy))
        assert [one.range for one in space.used()] == sorted(live, key=lambda one: one.start)
        depth = check_node(space._map._tree.root)
        assert depth == {9000: 2, 5000: 2, 200: 1, 0: 0}[goal]
    assert space.free_ranges() == (space.space,)


#: Enough for a heap whose order matters.
IDS = 24


class IdModel(RuleBasedStateMachine):
    """One word per identifier."""

    @initialize(base=st.sampled_from([0, 5, 2**32 - IDS, 2**64 - IDS]))
    def start(self, base):
        self.ids = IdAllocator(base, base + IDS - 1)
        self.state = dict.fromkeys(range(base, base + IDS), "never")

    @rule(count=st.integers(1, IDS // 2))
    def allocate(self, count):
        for _ in range(count):
            free = [i for i, state in self.state.items() if state != "used"]
            if not free:
                with pytest.raises(NoFreeId):
                    self.ids.allocate()
                return
            assert self.ids.allocate() == free[0]
            self.state[free[0]] = "used"

    @rule(data=st.data(), count=st.integers(1, IDS // 2), verb=st.sampled_from(["free", "reserve"]))
    def many(self, data, count, verb):
        """Free some of those in use, or reserve some of those that are not, in any order."""
        ready = [i for i, state in self.state.items() if (state == "used") == (verb == "free")]
        for id_ in data.draw(st.permutations(ready))[:count]:
            getattr(self.ids, verb)(id_)
            self.state[id_] = "released" if verb == "free" else "used"

    @rule(index=st.integers(-1, IDS))
    def reserve(self, index):
        id_ = self.ids.base + index
        state = self.state.get(id_)
        if state is None or state == "used":
            with pytest.raises(IdOutOfRange if state is None else IdInUse):
                self.ids.reserve(id_)
            return
        self.ids.reserve(id_)
        self.state[id_] = "used"

    @rule(index=st.integers(-1, IDS))
    def free(self, index):
        id_ = self.ids.base + index
        errors = {None: IdOutOfRange, "never": NeverAllocated, "released": AlreadyReleased}
        state = self.state.get(id_)
        if state != "used":
            with pytest.raises(errors[state]):
                self.ids.free(id_)
            return
        self.ids.free(id_)
        self.state[id_] = "released"

    @rule()
    def save_and_restore(self):
        """The copy takes the place of what it is a copy of."""
        restored = IdAllocator.restore(self.ids.save())
        assert restored == self.ids
        self.ids = restored

    @invariant()
    def queries_agree(self):
        if not hasattr(self, "ids"):
            return
        for id_, state in self.state.items():
            assert self.ids.is_allocated(id_) == (state == "used")
        assert self.ids.used() == tuple(i for i, state in self.state.items() if state == "used")
        assert len(self.ids._released) - self.ids._stale == sum(
            state == "released" for i, state in self.state.items() if i < self.ids._next
        )
        assert self.ids.available == sum(state != "used" for state in self.state.values())


TestAddressModel = AddressModel.TestCase
TestAddressModel.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestIdModel = IdModel.TestCase
TestIdModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
