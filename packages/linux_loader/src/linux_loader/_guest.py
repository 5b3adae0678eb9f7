"""The few helpers that the loaders share: spans of RAM, zeros, alignment."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux_loader.seams import GuestMemory

PAGE_SIZE = 4096
_ZEROS = bytes(256 * 1024)


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
