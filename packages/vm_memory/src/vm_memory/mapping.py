"""Host memory for one region: reserved, placed, and fenced in by pages that nobody may touch.

The owner of all of it is one ``mmap`` object. It spans more than the region needs: the memory
itself, at least one inaccessible page before and behind it (a stray pointer of C code ends in
SIGSEGV, not in other memory), and what alignment takes. A file is put over the middle of that
reservation, so it is fenced in as well and goes with its owner.
"""

from __future__ import annotations

import mmap

from vm_memory import _core

# <asm-generic/mman-common.h> and <linux/mempolicy.h>; the mmap module has names for the first
# from Python 3.13 on. The same numbers on x86-64, arm64 and riscv64.
_MAP_NORESERVE = 0x4000
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MPOL_BIND = 2

#: The huge page of x86-64, arm64 (4 KiB granule) and riscv64 in bytes. Where host and guest
#: address agree modulo this, one entry of the hypervisor's page tables can map both.
HUGE_PAGE = 2 << 20


class Mapping:
    """`size` bytes of zeroed private memory, committed page by page as they are touched.

    Args:
        size: bytes.
        guest_address: where the guest is going to see it; from `HUGE_PAGE` bytes on the host
            address is chosen equal to it modulo `HUGE_PAGE`.
        page_size: bytes of the pages that are going to be placed here.

    Attributes:
        owner: the ``mmap`` object to which everything belongs.
        offset: where in `owner` the memory begins.

    Raises:
        OSError, OverflowError, ValueError: as ``mmap.mmap``.
    """

    __slots__ = ("_address", "_size", "offset", "owner")

    def __init__(
        self, size: int, *, guest_address: int = 0, page_size: int = mmap.PAGESIZE
    ) -> None:
        guard = mmap.PAGESIZE
        alignment, remainder = page_size, 0
        if page_size < HUGE_PAGE <= size and guest_address % mmap.PAGESIZE == 0:
            alignment, remainder = HUGE_PAGE, guest_address % HUGE_PAGE
        self._size = -(-size // page_size) * page_size
        total = guard + (alignment - mmap.PAGESIZE) + self._size + guard
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.owner = mmap.mmap(-1, total, flags=flags)
        base = _core.address_of(self.owner)
        self._address = base + guard + (remainder - base - guard) % alignment
        self.offset = self._address - base
        end = self._address + self._size
        _core.forbid(base, self.offset)
        _core.forbid(end, base + total - end)

    def place_file(self, fd: int, offset: int, *, shared: bool) -> None:
        """Replace the memory by the pages of a file from `offset` on.

        Raises:
            OSError: as mmap(2).
        """
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | _MAP_NORESERVE
        _core.place(self.owner, self._address, self._size, flags, fd, offset)

    def advise(self, advice: int) -> None:
        """madvise(2) for all of the memory.

        Raises:
            OSError: the kernel does not know the advice, or has no memory for it.
        """
        _core.advise(self._address, self._size, advice)

    def populate(self) -> None:
        """Commit every page now, for writing (MADV_POPULATE_WRITE).

        Raises:
            OSError: not enough memory, or a kernel before Linux 5.14.
        """
        self.advise(_MADV_POPULATE_WRITE)

    def bind(self, nodes: int) -> None:
        """Take pages from the NUMA nodes whose bits are set (mbind(2), MPOL_BIND).

        Raises:
            OSError: there is no such node, or the kernel has no NUMA.
        """
        _core.bind(self._address, self._size, _MPOL_BIND, nodes)
