"""The limits of guest physical addresses and of sizes."""

from __future__ import annotations

#: Addresses, guest physical and I/O virtual ones, are below this.
ADDRESS_LIMIT = 1 << 64


def check_size(size: int) -> None:
    """Raise ValueError for a negative size: no guest gives one, so it is the caller's mistake."""
    if size < 0:
        raise ValueError(f"a size cannot be negative, as {size} is")
