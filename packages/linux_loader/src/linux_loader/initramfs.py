"""Placing an initramfs where nothing else is.

As high as allowed, because kernels and what they allocate early sit low; on whole pages, because
the kernel reserves and later frees it by pages (arch/x86/kernel/setup.c, early_reserve_initrd).
"""

from __future__ import annotations

from linux_loader._guest import PAGE_SIZE, align_down, align_up, ram_spans
from linux_loader.errors import EmptyImage, InitramfsTooLarge
from linux_loader.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from linux_loader.seams import GuestMemory, Source

_HIGHEST = 0x7FFF_FFFF  # initrd_addr_max of every 64-bit x86 kernel
_LOWEST = 0x10_0000  # below are the boot structures and the legacy hole


def load_initramfs(
    memory: GuestMemory,
    file: Source,
    *,
    highest: int = _HIGHEST,
    lowest: int = _LOWEST,
    avoid: Iterable[tuple[int, int]] = (),
) -> tuple[int, int]:
    """Copy an initramfs to the highest free pages.

    Args:
        memory: guest memory.
        file: path, binary file object, or the content itself.
        highest: the highest address that it may occupy (inclusive), such as
            ``kernel.initrd_addr_max``.
        lowest: the lowest address that it may occupy.
        avoid: ranges ``(start, end)``, ``end`` not included, that are taken, such as
            ``(kernel.start, kernel.end)``.

    Returns:
        Its guest physical address and its size in bytes.

    Raises:
        ImageError: the file is unreadable or empty.
        InitramfsTooLarge: no free place is large enough.
    """
    with Image(file, "initramfs") as image:
        if image.size == 0:
            raise EmptyImage(image.name)
        address = find_place(
            ram_spans(memory), image.size, highest=highest, lowest=lowest, avoid=avoid
        )
        if address is None:
            raise InitramfsTooLarge(image.name, image.size, highest)
        image.copy_to(memory, address, 0, image.size, "its content")
        return address, image.size


def find_place(
    ram: Iterable[tuple[int, int]],
    size: int,
    *,
    highest: int,
    lowest: int,
    avoid: Iterable[tuple[int, int]],
) -> int | None:
    """Return the highest page-aligned address of ``size`` bytes' whole pages of free RAM.

    Args:
        ram: half-open ranges of RAM.
        size: bytes, not 0.
        highest: last address that may be used.
        lowest: first address that may be used.
        avoid: half-open ranges that may not be used.
    """
    needed = align_up(size, PAGE_SIZE)
    best: int | None = None
    for start, end in _subtract(ram, avoid):
        floor = max(start, lowest)
        address = align_down(min(end, highest + 1) - needed, PAGE_SIZE)
        if address >= floor and (best is None or address > best):
            best = address
    return best


def _subtract(
    spans: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return what is left of half-open ``spans`` without ``holes``."""
    left = list(spans)
    for hole_start, hole_end in holes:
        if hole_start >= hole_end:
            continue
        left = [
            piece
            for start, end in left
            for piece in ((start, min(end, hole_start)), (max(start, hole_end), end))
            if piece[0] < piece[1]
        ]
    return left
