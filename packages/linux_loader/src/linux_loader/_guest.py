"""What the loaders need of guest memory, and the few helpers built on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE_SIZE = 4096
_ZEROS = bytes(256 * 1024)


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


def ram_spans(memory: GuestMemory) -> list[tuple[int, int]]:
    """Return the RAM as half-open ``(start, end)``, sorted, adjacent regions joined."""
    spans: list[tuple[int, int]] = []
    for region in memory.regions:
        start, end = region.start_addr, region.start_addr + region.size
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


def zero(memory: GuestMemory, addr: int, size: int) -> None:
    """Fill a checked range with zeros."""
    for done in range(0, size, len(_ZEROS)):
        memory.write(addr + done, _ZEROS[: size - done])


def align_up(value: int, alignment: int) -> int:
    """Round up to a multiple of a power of two."""
    return (value + alignment - 1) & -alignment


def align_down(value: int, alignment: int) -> int:
    """Round down to a multiple of a power of two."""
    return value & -alignment
