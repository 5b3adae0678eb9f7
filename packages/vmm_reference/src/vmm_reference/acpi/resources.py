"""Resource descriptors: what a device occupies (ACPI 6.3 §6.4), for its ``_CRS``."""

from __future__ import annotations

import struct
from typing import NewType

from vmm_reference.acpi.aml import AmlError, Term, buffer

Resource = NewType("Resource", bytes)
"""One encoded resource descriptor."""

_END_TAG = b"\x79\x00"  # a checksum of zero means "not checked" (§6.4.2.9)

# Resource types of address space descriptors (§6.4.3.5).
_MEMORY, _IO, _BUS = 0, 1, 2
_FIXED = 0x0C  # _MIF and _MAF: both ends are fixed; positive decode; a producer
_CACHEABLE_WRITABLE, _WRITABLE = 0x03, 0x01
_ENTIRE_IO_RANGE = 0x03


def resource_template(*resources: Resource) -> Term:
    """A buffer of descriptors with its end tag."""
    return buffer(b"".join(resources) + _END_TAG)


def io(base: int, size: int) -> Resource:
    """`size` I/O ports from `base`, decoded in 16 bits (§6.4.2.5)."""
    return _pack("I/O ports", "<BBHHBB", 0x47, 0x01, base, base, 1, size)


def irq(line: int) -> Resource:
    """An exclusive ISA interrupt, edge-triggered and active high (§6.4.2.1)."""
    if not 0 <= line < 16:
        raise AmlError(f"{line} is not an ISA interrupt")
    return Resource(struct.pack("<BH", 0x22, 1 << line))


def memory32_fixed(address: int, size: int, *, writable: bool = True) -> Resource:
    """A fixed range of memory below 4 GiB (§6.4.3.4)."""
    return _pack("memory below 4 GiB", "<BHBII", 0x86, 9, int(writable), address, size)


def interrupt(
    gsi: int, *, level: bool = False, active_low: bool = False, shared: bool = False
) -> Resource:
    """An interrupt that the device consumes, by its number in the whole system (§6.4.3.6)."""
    flags = 1 | (not level) << 1 | active_low << 2 | shared << 3
    return _pack("an interrupt", "<BHBBI", 0x89, 6, flags, 1, gsi)


def qword_memory(
    base: int, size: int, *, cacheable: bool = False, producer: bool = False
) -> Resource:
    """A range of memory anywhere (§6.4.3.5.1)."""
    type_flags = _CACHEABLE_WRITABLE if cacheable else _WRITABLE
    body = (_MEMORY, _FIXED | (not producer), type_flags, 0, base, base + size - 1, 0, size)
    return _pack("memory", "<BHBBBQQQQQ", 0x8A, 43, *body)


def dword_memory(
    base: int, size: int, *, cacheable: bool = False, producer: bool = False
) -> Resource:
    """A range of memory below 4 GiB (§6.4.3.5.2)."""
    type_flags = _CACHEABLE_WRITABLE if cacheable else _WRITABLE
    body = (_MEMORY, _FIXED | (not producer), type_flags, 0, base, base + size - 1, 0, size)
    return _pack("memory below 4 GiB", "<BHBBBIIIII", 0x87, 23, *body)


def word_io(base: int, size: int) -> Resource:
    """I/O ports that a bridge passes on to what is behind it (§6.4.3.5.3)."""
    body = (_IO, _FIXED, _ENTIRE_IO_RANGE, 0, base, base + size - 1, 0, size)
    return _pack("I/O ports", "<BHBBBHHHHH", 0x88, 13, *body)


def word_bus_number(first: int, count: int) -> Resource:
    """Bus numbers that a bridge has behind it (§6.4.3.5.3)."""
    body = (_BUS, _FIXED, 0, 0, first, first + count - 1, 0, count)
    return _pack("bus numbers", "<BHBBBHHHHH", 0x88, 13, *body)


def _pack(what: str, layout: str, *values: int) -> Resource:
    try:
        return Resource(struct.pack(layout, *values))
    except struct.error as error:
        raise AmlError(f"no descriptor for {what} has room for this range: {error}") from error
