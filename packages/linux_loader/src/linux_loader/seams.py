"""The types at this package's edges, for annotations; nothing imports them at run time.

Loading needs little of guest memory: what `GuestMemory` lists is all, and
``vm_memory.GuestMemory`` is what it was written for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Source: TypeAlias = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview
"""A path, a binary file object (its position is ignored), or the file's content itself."""


class Region(Protocol):
    """One contiguous piece of guest RAM."""

    @property
    def start_addr(self) -> int:
        """First guest physical address."""

    @property
    def size(self) -> int:
        """Bytes."""


class GuestMemory(Protocol):
    """The part of ``vm_memory.GuestMemory`` that loading uses."""

    @property
    def regions(self) -> Sequence[Region]:
        """The RAM, sorted by address."""

    def check_range(self, addr: int, size: int, /) -> bool:
        """Whether all of ``[addr, addr + size)`` is RAM."""

    def write(self, addr: int, data: bytes | bytearray | memoryview, /) -> object:
        """Copy ``data`` to ``addr``."""

    def read_from_fd(self, addr: int, fd: int, size: int, /, offset: int | None = None) -> int:
        """Read a file at ``offset`` straight into guest memory; return how many bytes came."""
