"""One contiguous piece of guest memory and the host mapping behind it.

A region knows its guest range and its bytes. It does not know its neighbours, slots or
KVM. The host memory belongs to an ``mmap`` object; everything else only borrows it, so
that closing a region under a live view raises ``BufferError`` instead of crashing.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from vm_memory.errors import InvalidRegion, MappingFailed

TYPE_CHECKING = False  # `typing` alone would cost half of this package's import budget
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal, Self

#: Guest physical addresses are below this.
ADDRESS_LIMIT = 1 << 64

# <asm-generic/mman-common.h>; the mmap module has a name for it from Python 3.13 on. The same
# number on x86-64, arm64 and riscv64.
_MAP_NORESERVE = 0x4000

_INTEGER_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


class GuestRegion:
    """A range of guest physical addresses backed by host memory.

    Use a constructor that names the kind of memory (`anonymous`, `from_fd`, `memfd`).
    A region works as a context manager; `close` is idempotent. A region that nobody refers
    to any more is unmapped by the garbage collector, so forgetting `close` leaks nothing.

    Attributes:
        start_addr: guest physical address of the first byte.
        size: bytes.
        last_addr: guest physical address of the last byte.
        host_address: address of the first byte in this process, for C code that also holds
            a borrow (`memory`, or a `RegionTable`) for as long as it uses the address.
        mapping: the ``mmap`` object that owns the host memory.
        integers: the same memory as native unsigned integers, keyed by their size in bytes
            (1, 2, 4, 8); the region's own borrows, released by `close`.
    """

    __slots__ = (
        "_memory",
        "host_address",
        "integers",
        "last_addr",
        "mapping",
        "size",
        "start_addr",
    )

    def __init__(self, start_addr: int, mapping: mmap.mmap) -> None:
        """Adopt `mapping`, whose length is the region's size."""
        size = len(mapping)
        check_region_range(start_addr, size)
        self.start_addr = start_addr
        self.size = size
        self.last_addr = start_addr + size - 1
        self.mapping = mapping
        # The temporary ctypes object borrows the mapping only for this line.
        self.host_address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self._open_views()

    @classmethod
    def anonymous(cls, start_addr: int, size: int, *, huge_pages_advice: bool = False) -> Self:
        """Zeroed private memory that the host commits page by page as it is touched.

        With `huge_pages_advice` the kernel is asked to use transparent huge pages
        (``madvise(2)``, MADV_HUGEPAGE); it may decline, which is not an error.

        Raises:
            InvalidRegion: the range is empty or does not fit below 2^64.
            MappingFailed: the host has no room for it.
        """
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        region = cls._mapped(start_addr, size, -1, 0, flags)
        if huge_pages_advice:
            try:  # noqa: SIM105 - contextlib costs more to import than this module
                region.mapping.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without transparent huge pages; it was only advice
        return region

    @classmethod
    def from_fd(
        cls, start_addr: int, size: int, fd: int, offset: int = 0, *, shared: bool = True
    ) -> Self:
        """Map `size` bytes of the file `fd` from `offset` on (bytes, multiple of the page size).

        With `shared`, what the guest writes reaches the file and everyone who maps it;
        without, it stays in this process. `fd` is duplicated: the caller may close it.
        Truncating the file below the mapping makes later accesses fail with SIGBUS
        (``mmap(2)``), so map only files whose size you control; seal a memfd.

        Raises:
            InvalidRegion: the range is empty or does not fit below 2^64.
            MappingFailed: the file is shorter than `offset` + `size`, the offset is not page
                aligned, or the host refuses the mapping.
        """
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | _MAP_NORESERVE
        return cls._mapped(start_addr, size, fd, offset, flags)

    @classmethod
    def memfd(cls, start_addr: int, size: int, *, name: str = "guest-memory") -> Self:
        """Zeroed memory in a new ``memfd_create(2)`` file, shared with whoever maps that file.

        Raises:
            InvalidRegion: the range is empty or does not fit below 2^64.
            MappingFailed: the host has no room for it.
        """
        check_region_range(start_addr, size)
        fd = -1
        try:
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
            os.truncate(fd, size)
            mapping = _map(size, fd, 0, mmap.MAP_SHARED)
        except (OSError, ValueError, OverflowError) as error:
            raise _failure(start_addr, size, error) from error
        finally:
            if fd >= 0:
                os.close(fd)
        return cls(start_addr, mapping)

    @classmethod
    def _mapped(cls, start_addr: int, size: int, fd: int, offset: int, flags: int) -> Self:
        check_region_range(start_addr, size)
        try:
            mapping = _map(size, fd, offset, flags)
        except (OSError, ValueError, OverflowError) as error:
            raise _failure(start_addr, size, error) from error
        return cls(start_addr, mapping)

    @property
    def memory(self) -> memoryview:
        """A new writable view of all bytes; a borrow: `close` raises while it lives."""
        return self._memory[:]

    @property
    def closed(self) -> bool:
        """Whether the host memory is gone."""
        return self.mapping.closed

    def close(self) -> None:
        """Give the host memory back.

        Raises:
            BufferError: a view, a slot or C code still borrows it; the region stays usable.
        """
        if self.mapping.closed:
            return
        self._release_views()
        try:
            self.mapping.close()
        except BufferError:
            self._open_views()
            raise BufferError(f"{self!r} is still borrowed: release its views first") from None

    def _open_views(self) -> None:
        memory = memoryview(self.mapping)
        self._memory = memory
        # A cast needs a whole number of items; the odd tail holds no aligned integer.
        self.integers: dict[int, memoryview[int]] = {
            size: memory[: self.size - self.size % size].cast(code)
            for size, code in _INTEGER_FORMATS.items()
        }

    def _release_views(self) -> None:
        for view in self.integers.values():
            view.release()
        self._memory.release()

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


def _map(size: int, fd: int, offset: int, flags: int) -> mmap.mmap:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(fd, size, flags=flags, prot=protection, offset=offset)


def _failure(start_addr: int, size: int, error: Exception) -> MappingFailed:
    """Python refuses some sizes itself, as ValueError or OverflowError, without an errno."""
    if isinstance(error, OSError):
        return MappingFailed(start_addr, size, error.errno, str(error.strerror))
    return MappingFailed(start_addr, size, None, str(error))
