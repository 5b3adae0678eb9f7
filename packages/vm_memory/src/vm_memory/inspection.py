"""Looking into guest memory: dumps to read, and where a pattern of bytes is.

Both copy pieces of bounded size and hold no view. Their work grows with the memory that there is
in a range, not with the holes. A guest that runs meanwhile changes what they see.
"""

from __future__ import annotations

from vm_memory.addresses import ADDRESS_LIMIT, check_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from vm_memory.memory import GuestMemory

_CHUNK = 1 << 20  # bytes that are copied at a time, a multiple of _ROW
_ROW = 16


def hexdump(memory: GuestMemory, address: int, size: int) -> str:
    """The bytes of a range as text: address, hexadecimal, ASCII; 16 bytes to a line.

    A ``*`` stands for lines that repeat the one before it; the last line of a piece of memory
    is always shown. Where there is no memory, one line says so and up to which address.

    >>> from vm_memory import GuestMemory
    >>> memory = GuestMemory.from_ranges([(0, 0x1000)])
    >>> memory.write(0xfc0, b"hello guest")
    >>> print(hexdump(memory, 0xfc0, 0x50))
    0000000000000fc0  68 65 6c 6c 6f 20 67 75  65 73 74 00 00 00 00 00  |hello guest.....|
    0000000000000fd0  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
    *
    0000000000000ff0  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
    0000000000001000  no memory up to 0x100f
    >>> memory.close()

    Args:
        memory: what to look into.
        address: guest physical address of the first byte, also the start of the first line.
        size: bytes; text of about five times as many is made of what does not repeat.

    Raises:
        ValueError: `size` is negative.
    """
    check_size(size)
    return "\n".join(_dump_lines(memory, address, address + size))


def search(
    memory: GuestMemory, pattern: Buffer, start: int = 0, end: int | None = None
) -> Iterator[int]:
    """The addresses in [start, end) at which `pattern` lies, in rising order.

    Matches may overlap each other and cross from a region into an adjacent one; they lie in the
    range as a whole. Nothing matches across a hole.

    >>> from vm_memory import GuestMemory
    >>> memory = GuestMemory.from_ranges([(0, 0x1000), (0x1000, 0x1000)])
    >>> memory.write(0xffe, b"RSD PTR ")
    >>> [hex(address) for address in search(memory, b"RSD PTR ")]
    ['0xffe']
    >>> memory.close()

    Args:
        memory: what to look into.
        pattern: at least one byte.
        start: guest physical address from which on to search.
        end: the address behind the last one; None for all of memory.

    Raises:
        ValueError: `pattern` is empty.
    """
    needle = memoryview(pattern).tobytes()
    if not needle:
        raise ValueError("an empty pattern lies everywhere: give at least one byte to search for")
    return _matches(memory, needle, start, ADDRESS_LIMIT if end is None else end)


def _matches(memory: GuestMemory, needle: bytes, start: int, end: int) -> Iterator[int]:
    overlap = len(needle) - 1  # a match may begin in one chunk and end in the next
    step = max(_CHUNK, len(needle))
    for first, limit in _present(memory, start, end):
        for position in range(first, limit, step):
            data = memory.read(position, min(step + overlap, limit - position))
            found = data.find(needle)
            while found >= 0:
                yield position + found
                found = data.find(needle, found + 1)


def _present(memory: GuestMemory, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts [first, limit) of [start, end) that can be read; adjacent regions are one."""
    first = limit = start
    for region in memory.regions:
        if region.closed:
            raise ValueError(f"{region!r} is closed")
        low, high = max(region.start_addr, start), min(region.last_addr + 1, end)
        if low >= high or not region.host_address:
            continue
        if low > limit:
            if first < limit:
                yield first, limit
            first = low
        limit = high
    if first < limit:
        yield first, limit


def _dump_lines(memory: GuestMemory, start: int, end: int) -> Iterator[str]:
    position = start
    for first, limit in _present(memory, start, end):
        if position < first:
            yield _hole(position, first)
        yield from _collapse(memory, first, limit)
        position = limit
    if position < end:
        yield _hole(position, end)


def _collapse(memory: GuestMemory, first: int, limit: int) -> Iterator[str]:
    """The lines of one piece of memory, with ``*`` for repetitions."""
    before, repeats = b"", False
    for position, row in _rows(memory, first, limit):
        if row == before and position + len(row) < limit:
            if not repeats:
                yield "*"
            repeats = True
        else:
            yield _line(position, row)
            before, repeats = row, False


def _rows(memory: GuestMemory, first: int, limit: int) -> Iterator[tuple[int, bytes]]:
    for position in range(first, limit, _CHUNK):
        data = memory.read(position, min(_CHUNK, limit - position))
        for offset in range(0, len(data), _ROW):
            yield position + offset, data[offset : offset + _ROW]


def _line(address: int, row: bytes) -> str:
    left, right = row[: _ROW // 2].hex(" "), row[_ROW // 2 :].hex(" ")
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
    return f"{address:016x}  {left:23}  {right:23}  |{text}|"


def _hole(first: int, limit: int) -> str:
    return f"{first:016x}  no memory up to {limit - 1:#x}"
