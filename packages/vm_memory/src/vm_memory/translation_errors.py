# ruff: noqa: N818 - the names say what happened, as those of `vm_memory.errors` do
"""What can go wrong on the way from a guest's virtual address to a physical one.

::

    GuestAccessError
    └── PageWalkError                   page tables lead to no page
        ├── NonCanonicalAddress         before the first table: the address itself
        └── BadPageTableEntry           at one entry
            ├── PageNotPresent          its present bit is clear
            ├── ReservedBitsSet         a bit that must be zero is not
            └── PageTableOutsideMemory  it cannot be read: its table is not in memory
"""

from __future__ import annotations

from vm_memory.errors import GuestAccessError


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
