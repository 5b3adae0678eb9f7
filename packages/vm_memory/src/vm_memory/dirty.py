"""Reading a dirty log: which runs of pages are set in it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ONES = (1 << 64) - 1


def dirty_runs(log: bytes) -> Iterator[tuple[int, int]]:
    """(first page, number of pages) of every run of set bits, in order.

    Args:
        log: 64-bit words, bit i of word w for page 64 * w + i, as `DirtyBitmap.get_and_reset`
            and KVM_GET_DIRTY_LOG give them.
    """
    start = -1  # of the run that is open; it may go on in the next word
    words = memoryview(log).cast("Q")
    for first, word in zip(range(0, 64 * len(words), 64), words, strict=True):
        position = 0
        while position < 64:
            wanted = (word if start < 0 else ~word & _ONES) >> position
            if not wanted:
                break
            position += (wanted & -wanted).bit_length() - 1
            if start < 0:
                start = first + position
            else:
                yield start, first + position - start
                start = -1
    if start >= 0:
        yield start, 64 * len(words) - start
