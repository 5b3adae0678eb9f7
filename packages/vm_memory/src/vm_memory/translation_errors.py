# ruff: noqa: N818 - the names say what happened, as those of `vm_memory.errors` do
"""What can go wrong on the way from a virtual address, a guest's or a device's, to a physical one.

::

    VmMemoryError
    ├── GuestAccessError
    │   ├── PageWalkError                   page tables lead to no page
    │   │   ├── NonCanonicalAddress         before the first table: the address itself
    │   │   └── BadPageTableEntry           at one entry
    │   │       ├── PageNotPresent          its present bit is clear
    │   │       ├── ReservedBitsSet         a bit that must be zero is not
    │   │       └── PageTableOutsideMemory  it cannot be read: its table is not in memory
    │   ├── CannotResolve                   an I/O address is not mapped, or not for this access
    │   └── Fragmented                      what must be one piece is several
    ├── MapError (ValueError)
    │   └── InvalidMapping                  a mapping that leaves the address space
    └── IommuMisconfigured                  an IOMMU of our own side that gives no right answer
"""

from __future__ import annotations

from vm_memory.errors import GuestAccessError, MapError, VmMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_ACCESS_WORDS = {1: "reading", 2: "writing", 3: "reading and writing"}


class PageWalkError(GuestAccessError):
    """The page tables do not translate this address.

    Attributes:
        virtual_address: what was to be translated.
    """

    virtual_address: int


class NonCanonicalAddress(PageWalkError):
    """The upper bits of a virtual address are not all equal to the highest translated one.

    Attributes:
        virtual_address: what was to be translated.
        width: bits that the page tables translate: 48 with four levels, 57 with five.
    """

    def __init__(self, virtual_address: int, width: int) -> None:
        super().__init__(virtual_address, width)
        self.virtual_address = virtual_address
        self.width = width

    def __str__(self) -> str:
        return f"{self.virtual_address:#x} is no canonical address of {self.width} bits"


class BadPageTableEntry(PageWalkError):
    """A walk ends at an entry that leads nowhere.

    Attributes:
        virtual_address: what was to be translated.
        level: 5 (PML5 entry) to 1 (page-table entry).
        entry_address: guest physical address of the entry.
        entry: its value; of `PageTableOutsideMemory`, the value that led to its table.
    """

    reason = "leads nowhere"

    def __init__(self, virtual_address: int, level: int, entry_address: int, entry: int) -> None:
        super().__init__(virtual_address, level, entry_address, entry)
        self.virtual_address = virtual_address
        self.level = level
        self.entry_address = entry_address
        self.entry = entry

    def __str__(self) -> str:
        return (
            f"no translation of {self.virtual_address:#x}: the level {self.level} entry "
            f"at {self.entry_address:#x} {self.reason} ({self.entry:#x})"
        )


class PageNotPresent(BadPageTableEntry):
    """The present bit of an entry is clear; the rest of it belongs to the guest's kernel."""

    reason = "is not present"


class ReservedBitsSet(BadPageTableEntry):
    """An entry has a bit set that must be zero, a page size where there is none included."""

    reason = "has reserved bits set"


class PageTableOutsideMemory(BadPageTableEntry):
    """An entry cannot be read, because a higher entry (or CR3) points outside of memory."""

    reason = "is outside of memory, where this led"


class CannotResolve(GuestAccessError):
    """A part of a range of I/O virtual addresses is not mapped, or not for this access.

    Attributes:
        address: I/O virtual address of the access.
        size: bytes of the access.
        access: the `Permissions` that it needs, as an integer.
        misses: the (address, size) parts that are not mapped, in order: what a vhost-user
            backend asks its front end for.
        failures: the (address, size) parts that are mapped and do not permit the access.
    """

    def __init__(
        self,
        address: int,
        size: int,
        access: int,
        misses: tuple[tuple[int, int], ...],
        failures: tuple[tuple[int, int], ...],
    ) -> None:
        super().__init__(address, size, access, misses, failures)
        self.address = address
        self.size = size
        self.access = access
        self.misses = misses
        self.failures = failures

    @property
    def resolved(self) -> int:
        """Bytes from `address` on that can be translated."""
        starts = [start for start, _size in (*self.misses, *self.failures)]
        return min(starts, default=self.address) - self.address

    def __str__(self) -> str:
        reasons = []
        if self.misses:
            reasons.append(f"{_first_range(self.misses)} is not mapped")
        if self.failures:
            reasons.append(f"{_first_range(self.failures)} does not permit it")
        return (
            f"no {_ACCESS_WORDS.get(self.access, 'access')} of {self.size:#x} bytes "
            f"at I/O address {self.address:#x}: {' and '.join(reasons)}"
        )


def _first_range(ranges: Sequence[tuple[int, int]]) -> str:
    start, size = ranges[0]
    more = f" (and {len(ranges) - 1} more)" if len(ranges) > 1 else ""
    return f"{start:#x}-{start + size - 1:#x}{more}"


class Fragmented(GuestAccessError):
    """A range that must be one piece of guest memory is translated to several.

    Attributes:
        address: I/O virtual address of the access.
        size: bytes of the access.
        contiguous: bytes of the first piece.
    """

    def __init__(self, address: int, size: int, contiguous: int) -> None:
        super().__init__(address, size, contiguous)
        self.address = address
        self.size = size
        self.contiguous = contiguous

    def __str__(self) -> str:
        return (
            f"{self.size:#x} bytes at I/O address {self.address:#x} are not one piece of guest "
            f"memory: the first ends after {self.contiguous:#x}"
        )


class InvalidMapping(MapError):
    """A mapping whose ranges are not within the 64-bit address space.

    Attributes:
        iova: I/O virtual address of the first byte.
        gpa: guest physical address of the first byte.
        size: bytes.
    """

    def __init__(self, iova: int, gpa: int, size: int, reason: str) -> None:
        super().__init__(iova, gpa, size, reason)
        self.iova = iova
        self.gpa = gpa
        self.size = size
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no mapping of {self.size:#x} bytes from I/O address {self.iova:#x} "
            f"to {self.gpa:#x}: {self.reason}"
        )


class IommuMisconfigured(VmMemoryError):
    """An IOMMU that cannot translate, or whose answer does not cover what it was asked.

    Implementations of `Iommu` raise it when they are not set up; this is never the guest's doing.

    Attributes:
        address: I/O virtual address of the access.
        size: bytes of the access.
        reason: what is wrong.
    """

    def __init__(self, address: int, size: int, reason: str) -> None:
        super().__init__(address, size, reason)
        self.address = address
        self.size = size
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the IOMMU translates no {self.size:#x} bytes at I/O address {self.address:#x}: "
            f"{self.reason}"
        )
