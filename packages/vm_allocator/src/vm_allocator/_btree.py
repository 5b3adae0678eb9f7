"""An ordered map of free pieces of an address space: a B-tree that knows its largest gaps.

An entry is a key and the piece of free addresses that belongs to it: `gap` addresses from `low`
on, possibly none. What keys mean is the caller's affair. A piece belongs to one entry alone, so no
gap is shared between two nodes.

The tree is a B+ tree of order `ORDER`: entries stand in leaves, all at the same depth; an inner
node knows the first key and the largest gap of each child, so a search for a piece of some size
enters a child only if there is one. Every node but the root is at least half full.

How much of a piece can be used depends on the alignment, too, and on a window. So that a gap
which is large enough but badly aligned leads no search astray, each node remembers, for every
alignment and window asked for, the largest usable part below it. A change makes the nodes on its
way forget; a later search computes anew what is missing where it looks. One change therefore
costs a later search at most a node per level for each alignment and window in use.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Node: TypeAlias = "Leaf | Inner"
    #: Where free addresses begin, and how many they are.
    Piece: TypeAlias = tuple[int, int]
    #: An alignment, the first address of a window, and the one behind it.
    Fit: TypeAlias = tuple[int, int, int]
    #: The largest gap that went from a leaf, and the largest that came.
    Difference: TypeAlias = tuple[int, int]
    #: Changes a leaf at an index; None if it changed nothing.
    Change: TypeAlias = Callable[["Leaf", int], Difference | None]

# Chosen among 16, 24, 32, 48, 64 and 96 by
#   for order in ...; do python3 noxfile.py bench -- vm_allocator --order $order; done
# 64 was the fastest at 100,000 entries (three levels) and within 5 % of the fastest at 1,000.
#: The most entries of a leaf, and children of an inner node.
ORDER = 64
#: The fewest, but for the root.
MINIMUM = ORDER // 2
#: The key of the entry with which every tree begins: below all others, and never removed.
HEAD = -1
#: Behind all addresses: what a window ends at that cuts nothing off.
BEYOND = 1 << 64
#: For how many alignments and windows the nodes remember what is usable.
MAX_FITS = 128


def usable(fit: Fit, low: int, gap: int) -> int:
    """How many addresses of a piece lie in the window, from the first aligned one on.

    Zero or negative if none does.
    """
    alignment, first, tail = fit
    # Without min() and max(): half the time, and this is what a search for an aligned gap does.
    start = ((low if low > first else first) + alignment - 1) & -alignment  # noqa: FURB136
    end = low + gap
    return (end if end < tail else tail) - start  # noqa: FURB136


class Leaf:
    """Entries, as parallel lists."""

    __slots__ = ("gaps", "keys", "lows", "remembered")

    def __init__(self, keys: list[int], gaps: list[int], lows: list[int]) -> None:
        self.keys = keys
        self.gaps = gaps
        self.lows = lows
        self.remembered: dict[Fit, int] = {}

    def columns(self) -> tuple[list[Any], ...]:
        """The parallel lists, in the order of the constructor's arguments."""
        return self.keys, self.gaps, self.lows

    def insert(self, index: int, key: int, low: int, gap: int) -> None:
        """Put an entry before the one at `index`."""
        self.keys.insert(index, key)
        self.gaps.insert(index, gap)
        self.lows.insert(index, low)

    def delete(self, index: int) -> None:
        """Remove the entry at `index`."""
        del self.keys[index], self.gaps[index], self.lows[index]

    def seek(self, key: int, step: int, size: int, fit: Fit | None) -> Piece | None:
        """As `Tree.seek`; without `fit`, size alone decides."""
        gaps = self.gaps
        if step > 0:
            indices = range(bisect_left(self.keys, key), len(gaps))
        else:
            indices = range(bisect_right(self.keys, key) - 1, -1, -1)
        for index in indices:
            if gaps[index] >= size:
                low, gap = self.lows[index], gaps[index]
                if fit is None or usable(fit, low, gap) >= size:
                    return low, gap
        return None

    def usable(self, fit: Fit) -> int:
        """The largest usable part of a piece."""
        largest = self.remembered.get(fit)
        if largest is None:
            pieces = zip(self.lows, self.gaps, strict=True)
            largest = max((usable(fit, low, gap) for low, gap in pieces if gap), default=0)
            self.remembered[fit] = largest
        return largest

    def widest(self, first: int, tail: int) -> int:
        """As `Tree.widest`."""
        if first <= self.keys[0] and tail >= BEYOND:
            return max(self.gaps)
        pieces = zip(self.lows, self.gaps, strict=True)
        return max(usable((1, first, tail), low, gap) for low, gap in pieces)


class Inner:
    """Nodes of equal depth, with the first key and the largest gap of each, as parallel lists."""

    __slots__ = ("children", "gaps", "keys", "remembered")

    def __init__(self, keys: list[int], gaps: list[int], children: list[Node]) -> None:
        self.keys = keys
        self.gaps = gaps
        self.children = children
        self.remembered: dict[Fit, int] = {}

    def columns(self) -> tuple[list[Any], ...]:
        """The parallel lists, in the order of the constructor's arguments."""
        return self.keys, self.gaps, self.children

    def renew(self, index: int, difference: Difference) -> None:
        """Take note of a change somewhere below the child at `index`."""
        self.remembered.clear()
        child = self.children[index]
        if not MINIMUM <= len(child.keys) <= ORDER:
            self._repair(index)
            return
        self.keys[index] = child.keys[0]
        went, came = difference
        if came >= self.gaps[index]:
            self.gaps[index] = came
        elif went == self.gaps[index]:
            # Often nothing is left: any() finds that out in a third of the time of max().
            self.gaps[index] = max(child.gaps) if any(child.gaps) else 0

    def _repair(self, index: int) -> None:
        """Make the child at `index`, which is too small or too large, a proper one again.

        One that is too large shares with its left neighbour while that has room: nodes filled in
        order are then full and not half full, which spares a level at 100,000 entries.
        """
        left = max(index - 1, 0)
        if len(self.children[index].keys) < MINIMUM or len(self.children[left].keys) < ORDER:
            index = left
            _join(self.children[index], self.children.pop(index + 1))
            del self.keys[index + 1], self.gaps[index + 1]
        child = self.children[index]
        if len(child.keys) > ORDER:
            right = _split(child)
            self.children.insert(index + 1, right)
            self.keys.insert(index + 1, right.keys[0])
            self.gaps.insert(index + 1, max(right.gaps))
        self.keys[index] = child.keys[0]
        self.gaps[index] = max(child.gaps)

    def seek(self, key: int, step: int, size: int, fit: Fit | None) -> Piece | None:
        """As `Tree.seek`; without `fit`, size alone decides.

        Only the first child looked at can disappoint: its piece may be on the wrong side of `key`.
        """
        gaps = self.gaps
        first = bisect_right(self.keys, key, 1) - 1
        for index in range(first, len(gaps) if step > 0 else -1, step):
            if gaps[index] >= size:
                child = self.children[index]
                if fit is None or child.usable(fit) >= size:
                    found = child.seek(key, step, size, fit)
                    if found is not None:
                        return found
        return None

    def usable(self, fit: Fit) -> int:
        """The largest usable part of a piece below."""
        largest = self.remembered.get(fit)
        if largest is None:
            largest = self.remembered[fit] = max(child.usable(fit) for child in self.children)
        return largest

    def widest(self, first: int, tail: int) -> int:
        """As `Tree.widest`.

        Of two children at the borders of the window each is cut on one side only: the right one
        begins behind `first`. So from there on down at most one child of a node is cut.
        """
        if first <= self.keys[0] and tail >= BEYOND:
            return max(self.gaps)
        left = bisect_right(self.keys, first, 1) - 1
        right = bisect_left(self.keys, tail, 1) - 1
        if left == right:
            return self.children[left].widest(first, tail)
        return max(
            self.children[left].widest(first, BEYOND),
            self.children[right].widest(first, tail),
            max(self.gaps[left + 1 : right], default=0),
        )


def _split(node: Node) -> Node:
    """Move the upper half of `node`, which remembers nothing, into a new node."""
    half = len(node.keys) // 2
    right = type(node)(*(column[half:] for column in node.columns()))
    for column in node.columns():
        del column[half:]
    return right


def _join(node: Node, right: Node) -> None:
    """Append all of `right`, the next node of equal depth, to `node`."""
    node.remembered.clear()
    for column, more in zip(node.columns(), right.columns(), strict=True):
        column.extend(more)


class Tree:
    """The tree as a whole. It begins with the `HEAD` entry, which owns the piece given here."""

    __slots__ = ("_fits", "root")

    def __init__(self, low: int, gap: int) -> None:
        self.root: Node = Leaf([HEAD], [gap], [low])
        self._fits: set[Fit] = set()

    def floor(self, key: int) -> tuple[Leaf, int]:
        """The leaf and the index of the last entry whose key is at most `key`."""
        node = self.root
        while isinstance(node, Inner):
            node = node.children[bisect_right(node.keys, key) - 1]
        return node, bisect_right(node.keys, key) - 1

    def edit(self, key: int, change: Change) -> Difference | None:
        """Call `change` with the place of `floor(key)` and keep the tree in order.

        `change` may alter pieces of that leaf, and insert one entry or remove one. What it
        returns is returned.
        """
        node = self.root
        way = []
        while isinstance(node, Inner):
            index = bisect_right(node.keys, key) - 1
            way.append((node, index))
            node = node.children[index]
        difference = change(node, bisect_right(node.keys, key) - 1)
        if difference is not None:
            node.remembered.clear()
            for above, index in reversed(way):
                above.renew(index, difference)
            if len(self.root.keys) > ORDER or (way and len(self.root.keys) == 1):
                self._replace_root()
        return difference

    def _replace_root(self) -> None:
        """Put another level on top of a root that is too large; remove one with one child."""
        root = self.root
        if isinstance(root, Inner) and len(root.keys) == 1:
            self.root = root.children[0]
        else:
            nodes = [root, _split(root)]
            keys, gaps = [node.keys[0] for node in nodes], [max(node.gaps) for node in nodes]
            self.root = Inner(keys, gaps, nodes)

    def seek(self, key: int, step: int, size: int, fit: Fit) -> Piece | None:
        """The first piece with `size` usable addresses, from `key` on, up (1) or down (-1)."""
        found = self.root.seek(key, step, size, None)
        if found is None or usable(fit, *found) >= size:
            return found  # the usual case: what is asked for is as aligned as what there is
        self._make_room_for(fit)
        return self.root.seek(key, step, size, fit)

    def _make_room_for(self, fit: Fit) -> None:
        """Bound what the nodes remember: of too many alignments and windows all are forgotten."""
        if len(self._fits) == MAX_FITS and fit not in self._fits:
            self._fits.clear()
            for node in self.nodes():
                node.remembered.clear()
        self._fits.add(fit)

    def widest(self, first: int, tail: int) -> int:
        """The largest part of a piece in a window, where keys are addresses; or less than 1."""
        return self.root.widest(first, tail)

    def nodes(self) -> Iterator[Node]:
        """All nodes in order, each before those below it."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            if isinstance(node, Inner):
                waiting += reversed(node.children)

    def entries(self) -> Iterator[tuple[int, int, int]]:
        """Key, `low` and `gap` of all entries in order."""
        for node in self.nodes():
            if isinstance(node, Leaf):
                yield from zip(node.keys, node.lows, node.gaps, strict=True)
