"""x86-64 page tables: from a guest's virtual address to a guest physical one.

For debuggers and inspection: what a walk answers is what the tables in memory say now, not what
a processor may still have cached. Control bits that change the meaning of permissions (CR0.WP,
SMEP, SMAP, protection keys) are the reader's to apply, and no accessed or dirty bit is set.

Source: Intel SDM vol. 3A §4.5 (4-level and 5-level paging), the formats of the entries from its
tables 4-12 to 4-20; access rights §4.6; canonical addresses vol. 1 §3.3.7.1.
"""

from __future__ import annotations

from vm_memory.addresses import check_size
from vm_memory.errors import GuestAccessError, PartialBuffer
from vm_memory.translation_errors import (
    NonCanonicalAddress,
    PageNotPresent,
    PageTableOutsideMemory,
    ReservedBitsSet,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from typing_extensions import Buffer

    class _Memory(Protocol):
        """Guest physical memory; translating alone needs only `load`."""

        def load(self, address: int, size: int, /) -> int: ...
        def read(self, address: int, size: int, /) -> bytes: ...
        def write(self, address: int, data: Buffer, /) -> None: ...


_PRESENT, _WRITABLE, _USER, _PAGE_SIZE = 1 << 0, 1 << 1, 1 << 2, 1 << 7
_NO_EXECUTE = 1 << 63
_TABLE_ADDRESS = 0x000F_FFFF_FFFF_F000
_HIGHEST_PAGE_LEVEL = 3  # 1 GiB; entries of the levels above only lead to tables
_PAT = 1 << 12  # of an entry that maps 2 MiB or 1 GiB; of smaller ones it is bit 7


class PageTableEntry:
    """An entry that a walk went through.

    Attributes:
        level: 5 (PML5 entry) to 1 (page-table entry).
        address: guest physical address of the entry.
        value: its 64 bits.
    """

    __slots__ = ("address", "level", "value")

    def __init__(self, level: int, address: int, value: int) -> None:
        self.level = level
        self.address = address
        self.value = value

    def __repr__(self) -> str:
        return f"<PageTableEntry level {self.level} at {self.address:#x}: {self.value:#x}>"


class PageTranslation:
    """Where a virtual address leads, and what the tables allow there.

    Attributes:
        virtual_address: what was translated.
        physical_address: guest physical address of the same byte; not checked to be memory, as
            pages of device registers are not.
        page_size: bytes of the page: 4 KiB, 2 MiB or 1 GiB.
        entries: the entries on the way, from the root on; the last one maps the page.
        writable: every entry allows writing.
        user: every entry allows user mode.
        executable: no entry forbids fetching instructions.
    """

    __slots__ = (
        "entries",
        "executable",
        "page_size",
        "physical_address",
        "user",
        "virtual_address",
        "writable",
    )

    def __init__(self, virtual_address: int, entries: tuple[PageTableEntry, ...]) -> None:
        """Sum up `entries`, the last of which maps the page."""
        values = [entry.value for entry in entries]
        self.virtual_address = virtual_address
        self.entries = entries
        self.page_size = 1 << _shift(entries[-1].level)
        inside = self.page_size - 1
        self.physical_address = values[-1] & _TABLE_ADDRESS & ~inside | virtual_address & inside
        self.writable = all(value & _WRITABLE for value in values)
        self.user = all(value & _USER for value in values)
        self.executable = not any(value & _NO_EXECUTE for value in values)

    def __repr__(self) -> str:
        granted = (self.writable, self.user, self.executable)
        rights = "".join(
            letter if grant else "-" for letter, grant in zip("wux", granted, strict=True)
        )
        return (
            f"<PageTranslation {self.virtual_address:#x} -> {self.physical_address:#x} "
            f"{rights} in {self.page_size:#x}>"
        )


class PageTables:
    """One address space: the page tables that `cr3` points to.

    Addresses are integers, virtual ones unsigned. A walk reads one entry per level and no more,
    whatever the tables say: tables that contain themselves are nothing special.

    Args:
        memory: holds the tables and the pages, addressed by guest physical address; for
            `translate` anything with ``load(address, size)`` will do.
        cr3: the register's value; flags and the process-context identifier are ignored.
        levels: 5 if bit 12 (LA57) of CR4 is set, else 4.
        no_execute: bit 11 (NXE) of EFER; without it, bit 63 of an entry is reserved.
        address_bits: width of a guest physical address (MAXPHYADDR, CPUID leaf 80000008H);
            the bits of an entry's address above it are reserved.

    Raises:
        ValueError: `levels` or `address_bits` is one that no processor has.
    """

    __slots__ = ("_levels", "_memory", "_reserved", "_root")

    def __init__(
        self,
        memory: _Memory,
        cr3: int,
        *,
        levels: int = 4,
        no_execute: bool = True,
        address_bits: int = 52,
    ) -> None:
        if levels not in (4, 5):
            raise ValueError(f"page tables have 4 or 5 levels, not {levels}")
        if not 32 <= address_bits <= 52:
            raise ValueError(f"a physical address has 32 to 52 bits, not {address_bits}")
        self._memory = memory
        self._root = cr3
        self._levels = levels
        self._reserved = _TABLE_ADDRESS & -1 << address_bits
        if not no_execute:
            self._reserved |= _NO_EXECUTE

    def translate(self, virtual_address: int) -> PageTranslation:
        """Walk the tables.

        Raises:
            NonCanonicalAddress: the address is none that these tables could translate.
            PageNotPresent: an entry on the way is not present.
            ReservedBitsSet: an entry on the way has a bit set that must be zero.
            PageTableOutsideMemory: an entry on the way is not in memory.
        """
        self._check_canonical(virtual_address)
        entries: list[PageTableEntry] = []
        parent = self._root
        for level in range(self._levels, 0, -1):
            entry = self._read_entry(virtual_address, level, parent)
            entries.append(entry)
            parent = entry.value
            if parent & _PAGE_SIZE:  # on level 1 another bit, and the loop ends anyway
                break
        return PageTranslation(virtual_address, tuple(entries))

    def read(self, virtual_address: int, size: int) -> bytes:
        """Copy `size` bytes out of the guest, whatever the permissions, as a debugger does.

        The rules are those of `vm_memory.GuestMemory`: an error of the first byte is that
        byte's own error, one of a later byte is a `PartialBuffer` of which it is the cause.

        Raises:
            PageWalkError: the tables do not translate the first byte.
            InvalidGuestAddress: they lead to where no memory is; the physical address.
            PartialBuffer: either, further on; the virtual address. Nothing was transferred.
        """
        parts: list[bytes] = []
        self._by_page(
            virtual_address,
            size,
            lambda physical, _done, part: parts.append(self._memory.read(physical, part)),
        )
        return b"".join(parts)

    def write(self, virtual_address: int, data: Buffer) -> None:
        """Copy `data` into the guest, whatever the permissions; raises as `read` does.

        After a PartialBuffer its first `completed` bytes have been transferred.
        """
        with memoryview(data) as raw, raw.cast("B") as source:

            def copy(physical: int, done: int, part: int) -> None:
                with source[done : done + part] as piece:
                    self._memory.write(physical, piece)

            self._by_page(virtual_address, len(source), copy)

    def _by_page(
        self, virtual_address: int, size: int, copy: Callable[[int, int, int], None]
    ) -> None:
        """Call `copy(physical address, bytes done before, bytes)` for the part in each page."""
        check_size(size)
        done = 0
        while done < size:
            try:
                page = self.translate(virtual_address + done)
                left_in_page = page.page_size - page.physical_address % page.page_size
                part = min(size - done, left_in_page)
                copy(page.physical_address, done, part)
            except PartialBuffer as error:
                raise PartialBuffer(virtual_address, size, done + error.completed) from error
            except GuestAccessError as error:
                if not done:
                    raise
                raise PartialBuffer(virtual_address, size, done) from error
            done += part

    def _check_canonical(self, virtual_address: int) -> None:
        width = _shift(self._levels + 1)
        upper = virtual_address >> width - 1
        if upper not in (0, (1 << 64 - width + 1) - 1):
            raise NonCanonicalAddress(virtual_address, width)

    def _read_entry(self, virtual_address: int, level: int, parent: int) -> PageTableEntry:
        """The entry of this level in the table that `parent`, an entry or CR3, points to."""
        index = virtual_address >> _shift(level) & 0x1FF
        address = (parent & _TABLE_ADDRESS) + 8 * index
        try:
            value = self._memory.load(address, 8)
        except GuestAccessError as error:
            raise PageTableOutsideMemory(virtual_address, level, address, parent) from error
        if not value & _PRESENT:
            raise PageNotPresent(virtual_address, level, address, value)
        if value & (self._reserved | _reserved_for_page_size(level, value)):
            raise ReservedBitsSet(virtual_address, level, address, value)
        return PageTableEntry(level, address, value)


def _shift(level: int) -> int:
    """Bits of an address below those that index the tables of a level."""
    return 12 + 9 * (level - 1)


def _reserved_for_page_size(level: int, value: int) -> int:
    """What bit 7 makes reserved: itself where no page can be, else the bits inside a page."""
    if level == 1 or not value & _PAGE_SIZE:  # of a page-table entry it selects a memory type
        return 0
    if level > _HIGHEST_PAGE_LEVEL:
        return _PAGE_SIZE
    return ((1 << _shift(level)) - 1) & _TABLE_ADDRESS & ~_PAT
