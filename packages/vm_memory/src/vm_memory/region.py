"""One contiguous piece of guest memory and the host mapping behind it.

A region knows its guest range, its bytes and which of them are dirty. It does not know its
neighbours, slots or KVM. The host memory belongs to an ``mmap`` object; everything else only
borrows it, so that closing a region under a live view raises ``BufferError`` instead of
crashing.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat

from vm_memory import _core, backing
from vm_memory.addresses import ADDRESS_LIMIT
from vm_memory.errors import HostMemoryFault, InvalidRegion, MappingFailed, PolicyRefused
from vm_memory.mapping import HUGE_PAGE

TYPE_CHECKING = False  # `typing` alone would cost half of this package's import budget
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from vm_memory.mapping import Mapping

#: Bytes that one bit of a region's dirty bitmap stands for: the host's page, as in KVM's log.
DIRTY_PAGE_SIZE = mmap.PAGESIZE


class GuestRegion(_core.Region):
    """A range of guest physical addresses backed by host memory.

    Use a constructor that names the kind of memory: `anonymous`, `memfd`, `from_fd`, `hugetlb`,
    `guest_memfd`; the class itself adopts an ``mmap`` object of the caller's. Each kind but the
    adopted is fenced in by inaccessible pages, so that a stray pointer in C hits nothing.

    A region works as a context manager; `close` is idempotent. A region that nobody refers to
    any more is unmapped by the garbage collector, so forgetting `close` leaks nothing.

    Args:
        start_addr: guest physical address of the first byte.
        mapping: the writable ``mmap`` object to adopt, for this region alone; its length is the
            region's size, and it is closed with the region.
        track_dirty: keep a bitmap of the pages that are written to; see `dirty`.

    Raises:
        InvalidRegion: the range is empty, does not fit below 2^64, or cannot be written.
        TypeError: `mapping` is no ``mmap`` object.
    """

    __slots__ = ("_mapping",)

    _mapping: Mapping | None

    def __new__(  # noqa: D102 - see the class
        cls, start_addr: int, mapping: mmap.mmap, *, track_dirty: bool = False
    ) -> Self:
        if not isinstance(mapping, mmap.mmap):
            raise TypeError(f"guest memory belongs to mmap objects, and {mapping!r} is none")
        size = len(mapping)
        check_region_range(start_addr, size)
        if memoryview(mapping).readonly:
            raise InvalidRegion(start_addr, size, "its mapping cannot be written")
        bitmap = _bitmap(size) if track_dirty else None
        region = super().__new__(cls, start_addr, size, mapping, 0, bitmap, backing.NO_FILE, 0)
        region._mapping = None
        return region

    @classmethod
    def anonymous(
        cls,
        start_addr: int,
        size: int,
        *,
        huge_pages_advice: bool = False,
        track_dirty: bool = False,
    ) -> Self:
        """Zeroed private memory that the host commits page by page as it is touched.

        Args:
            start_addr: guest physical address of the first byte.
            size: bytes.
            huge_pages_advice: ask the host for transparent huge pages as
                `advise_huge_pages` does; a host without them is no error here.
            track_dirty: keep a bitmap of the pages that are written to; see `dirty`.

        Raises:
            InvalidRegion: the range is empty or does not fit below 2^64.
            MappingFailed: the host has no room for it.
        """
        region = cls._of(start_addr, size, lambda: backing.anonymous(start_addr, size), track_dirty)
        if huge_pages_advice:
            try:  # noqa: SIM105 - contextlib costs more to import than this module
                region.advise_huge_pages()
            except PolicyRefused:
                pass  # a kernel without transparent huge pages; it was only advice
        return region

    @classmethod
    def from_fd(
        cls,
        start_addr: int,
        size: int,
        fd: int,
        offset: int = 0,
        *,
        shared: bool = True,
        track_dirty: bool = False,
    ) -> Self:
        """Map `size` bytes of the file `fd` from `offset` on (bytes, multiple of the page size).

        With `shared`, what the guest writes reaches the file and everyone who maps it;
        without, it stays in this process. `fd` is duplicated: the caller may close it.

        Whoever truncates the file below the mapping takes memory away from under the guest: an
        access to what is gone is a SIGBUS, which ends the process unless it handles the signal
        (mmap(2)); transfers from and to files report `HostMemoryFault` instead, and
        `check_backing` tells beforehand. Map only files whose size you control, or seal them.

        Raises:
            InvalidRegion: the range is empty or does not fit below 2^64.
            MappingFailed: the file is shorter than `offset` + `size`, the offset is not page
                aligned, or the host refuses the mapping.
        """

        def prepare() -> tuple[Mapping, int]:
            return backing.existing_file(start_addr, size, fd, offset, shared=shared)

        return cls._of(start_addr, size, prepare, track_dirty, offset)

    @classmethod
    def memfd(
        cls,
        start_addr: int,
        size: int,
        *,
        name: str = "guest-memory",
        track_dirty: bool = False,
    ) -> Self:
        """Zeroed memory in a new ``memfd_create(2)`` file, shared with whoever maps that file.

        The file is sealed against resizing, so nobody who has it can make an access fail;
        `file_descriptor` is what to hand to another process.

        Raises:
            InvalidRegion: the range is empty or does not fit below 2^64.
            MappingFailed: the host has no room for it.
        """

        def prepare() -> tuple[Mapping, int]:
            return backing.new_file(start_addr, size, name)

        return cls._of(start_addr, size, prepare, track_dirty)

    @classmethod
    def hugetlb(
        cls,
        start_addr: int,
        size: int,
        *,
        page_size: int = HUGE_PAGE,
        track_dirty: bool = False,
    ) -> Self:
        """Zeroed memory in the host's reserved huge pages (hugetlbfs), shared as a `memfd`.

        Every page is set aside now, so the guest cannot meet a shortage later.

        Args:
            start_addr: guest physical address of the first byte.
            size: bytes, a multiple of `page_size`.
            page_size: 2 MiB unless given; 1 GiB where the host has it.
            track_dirty: keep a bitmap of the pages that are written to; see `dirty`.

        Raises:
            InvalidRegion: the range is empty, does not fit below 2^64, or is not a whole number
                of huge pages.
            MappingFailed: the host has too few of them free; it says how to get some, and what
                to use instead.
        """
        check_region_range(start_addr, size)
        if page_size < mmap.PAGESIZE or page_size & (page_size - 1) or size % page_size:
            raise InvalidRegion(
                start_addr, size, f"it is not a whole number of huge pages of {page_size:#x} bytes"
            )

        def prepare() -> tuple[Mapping, int]:
            return backing.new_huge_file(start_addr, size, page_size)

        return cls._of(start_addr, size, prepare, track_dirty)

    @classmethod
    def guest_memfd(cls, start_addr: int, size: int, fd: int, offset: int = 0) -> Self:
        """Guest memory that this process cannot see: a file of KVM_CREATE_GUEST_MEMFD.

        It has its place in the map (`GuestMemory.find_region` finds it, no other region may
        overlap it), and every access to it is `HostAddressNotAvailable`. `fd` is duplicated.

        Args:
            start_addr: guest physical address of the first byte.
            size: bytes.
            fd: the file; for a slot with KVM_MEM_GUEST_MEMFD.
            offset: where in the file the region begins, in bytes.

        Raises:
            InvalidRegion: the range is empty or does not fit below 2^64, or `offset` is none.
            MappingFailed: `fd` is not open.
        """
        check_region_range(start_addr, size)
        if not 0 <= offset < 1 << 63:
            raise InvalidRegion(start_addr, size, f"no file has an offset of {offset}")
        return cls._of(start_addr, size, lambda: (None, os.dup(fd)), False, offset)

    @classmethod
    def _of(
        cls,
        start_addr: int,
        size: int,
        prepare: Callable[[], tuple[Mapping | None, int]],
        track_dirty: bool,
        file_offset: int = 0,
    ) -> Self:
        """The region over what `prepare` returns: a mapping, and a descriptor to own or -1."""
        check_region_range(start_addr, size)
        bitmap = _bitmap(size) if track_dirty else None
        try:
            mapping, fd = prepare()
        except (OSError, ValueError, OverflowError) as error:
            raise _failure(start_addr, size, error) from error
        owner, offset = (None, 0) if mapping is None else (mapping.owner, mapping.offset)
        try:
            region = super().__new__(cls, start_addr, size, owner, offset, bitmap, fd, file_offset)
        except BaseException:
            backing.close(fd)
            raise
        region._mapping = mapping
        return region

    # What the host is asked to do about the pages

    def advise_huge_pages(self) -> None:
        """Ask for transparent huge pages (madvise(2), MADV_HUGEPAGE).

        Raises:
            PolicyRefused: this kernel has none, or not for this kind of memory.
        """
        self._apply("use transparent huge pages", lambda m: m.advise(mmap.MADV_HUGEPAGE))

    def advise_mergeable(self) -> None:
        """Let the host share pages that are equal, also with other guests (MADV_MERGEABLE).

        Whoever shares a page can tell by timing that it is shared: not for guests that must
        not learn about each other.

        Raises:
            PolicyRefused: this kernel has no KSM.
        """
        self._apply("merge equal pages", lambda m: m.advise(mmap.MADV_MERGEABLE))

    def bind_to_nodes(self, *nodes: int) -> None:
        """Take pages from these NUMA nodes only (mbind(2)); do it before they are touched.

        Args:
            nodes: node numbers, 0 to 63.

        Raises:
            PolicyRefused: the host has no such node, or no NUMA.
            ValueError: no node, or a number that cannot be one.
        """
        if not nodes or not all(0 <= node < 64 for node in nodes):
            raise ValueError(f"NUMA nodes are numbers from 0 to 63, at least one, not {nodes}")
        mask = sum(1 << node for node in set(nodes))
        self._apply(f"take memory from NUMA nodes {nodes}", lambda m: m.bind(mask))

    def prefault(self) -> None:
        """Commit every page now instead of at the guest's first touch; takes its time.

        Raises:
            PolicyRefused: not enough memory, or a kernel before Linux 5.14.
        """
        self._apply("commit all pages", lambda m: m.populate())

    def _apply(self, what: str, apply: Callable[[Mapping], None]) -> None:
        if self.closed:
            raise ValueError(f"{self!r} is closed")
        if self._mapping is None:
            raise PolicyRefused(self.start_addr, self.size, what, None, "it is not mapped by us")
        # Held, so that another thread cannot unmap what the kernel works on without the GIL.
        with self.slot_memory:
            try:
                apply(self._mapping)
            except OSError as error:
                reason = str(error.strerror)
                raise PolicyRefused(
                    self.start_addr, self.size, what, error.errno, reason
                ) from error

    def check_backing(self) -> None:
        """Look whether the file behind the region still holds all of it.

        Nothing keeps the answer true but a seal (F_SEAL_SHRINK) or your control of the file.

        Raises:
            HostMemoryFault: it was truncated; an access behind its end would be a SIGBUS.
        """
        if self.file_descriptor == backing.NO_FILE:
            return
        status = os.fstat(self.file_descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size < self.file_offset + self.size:
            reason = f"their file was truncated to {status.st_size:#x} bytes"
            raise HostMemoryFault(self.start_addr, self.size, errno.EFAULT, reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<GuestRegion {self.start_addr:#x}-{self.last_addr:#x}>"


def check_region_range(start_addr: int, size: int) -> None:
    """Raise InvalidRegion unless [start_addr, start_addr + size) is a range below 2^64."""
    if size <= 0:
        raise InvalidRegion(start_addr, size, "it must hold at least one byte")
    if start_addr < 0:
        raise InvalidRegion(start_addr, size, "it starts below address 0")
    if start_addr + size > ADDRESS_LIMIT:
        raise InvalidRegion(start_addr, size, "it ends beyond 2^64")


def _bitmap(size: int) -> _core.DirtyBitmap:
    return _core.DirtyBitmap(size, DIRTY_PAGE_SIZE)


def _failure(start_addr: int, size: int, error: Exception) -> MappingFailed:
    """Python refuses some sizes itself, as ValueError or OverflowError, without an errno."""
    if isinstance(error, OSError):
        return MappingFailed(start_addr, size, error.errno, str(error.strerror))
    return MappingFailed(start_addr, size, errno.ENOMEM, str(error))
