"""What a saved disk remembers: nothing but its cache mode, for the rest is in its file."""

from __future__ import annotations

from typing import NamedTuple


class BlockState(NamedTuple):
    """A `Block`, without what its backend holds.

    Attributes:
        writeback: whether a write may be told before it is stable.
    """

    writeback: bool
