# ruff: noqa: N818 - the names say what happened, as those of rust-vmm's vm-memory do
"""What can go wrong with guest memory.

::

    VmMemoryError
    ├── GuestAccessError           an address that a guest (or its driver) gave
    │   ├── InvalidGuestAddress    the first byte is in no region
    │   ├── PartialBuffer          the range starts in memory and then leaves it
    │   ├── MisalignedAccess       an integer access off its natural alignment
    │   ├── HostAddressNotAvailable  guest memory that is not mapped in this process
    │   ├── UnterminatedString     a C string without its end
    │   └── PageWalkError, CannotResolve, Fragmented: see vm_memory.translation_errors
    ├── MapError (ValueError)      a map that the caller cannot have
    │   ├── InvalidRegion          empty, negative or beyond 2^64
    │   ├── MemoryRegionOverlap    two regions claim the same address
    │   ├── NoSuchRegion           no region starts there with that size
    │   └── InvalidMapping         see vm_memory.translation_errors
    ├── IommuMisconfigured         see vm_memory.translation_errors
    └── HostMemoryError (OSError)  what the host could not do
        ├── MappingFailed          it refused the memory
        ├── PolicyRefused          it refused what was asked about the pages
        └── HostMemoryFault        memory is gone: its file was truncated

A VMM that serves a guest catches ``GuestAccessError`` alone: the other branches are
mistakes or shortages of its own side.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class VmMemoryError(Exception):
    """Base of every error that this package raises on purpose."""


class GuestAccessError(VmMemoryError):
    """The guest addressed something that its memory does not hold."""


class InvalidGuestAddress(GuestAccessError):
    """The first byte of an access is in no region; nothing was transferred.

    Attributes:
        address: guest physical address of the access.
        size: bytes asked for.
    """

    def __init__(self, address: int, size: int) -> None:
        super().__init__(address, size)
        self.address = address
        self.size = size

    def __str__(self) -> str:
        return f"no guest memory at {self.address:#x} (access of {self.size:#x} bytes)"


class PartialBuffer(GuestAccessError):
    """An access starts in memory and leaves it before its end.

    ``write`` and ``read_into`` have transferred the first ``completed`` bytes; every other
    operation has transferred nothing.

    Attributes:
        address: guest physical address of the access.
        expected: bytes asked for.
        completed: bytes from `address` on that the operation could reach.
    """

    def __init__(self, address: int, expected: int, completed: int) -> None:
        super().__init__(address, expected, completed)
        self.address = address
        self.expected = expected
        self.completed = completed

    def __str__(self) -> str:
        return (
            f"only {self.completed:#x} of {self.expected:#x} bytes at {self.address:#x} "
            f"can be reached: the range ends at {self.address + self.completed:#x}"
        )


class MisalignedAccess(GuestAccessError):
    """An integer load or store off its natural alignment inside a region.

    Attributes:
        address: guest physical address of the access.
        size: bytes of the integer.
    """

    def __init__(self, address: int, size: int) -> None:
        super().__init__(address, size)
        self.address = address
        self.size = size

    def __str__(self) -> str:
        return f"{self.address:#x} is not aligned to an integer of {self.size} bytes"


class HostAddressNotAvailable(GuestAccessError):
    """The first byte of an access is guest memory that this process cannot see (guest_memfd).

    Attributes:
        address: guest physical address of the access, or of the region.
        size: bytes asked for.
    """

    def __init__(self, address: int, size: int) -> None:
        super().__init__(address, size)
        self.address = address
        self.size = size

    def __str__(self) -> str:
        return (
            f"guest memory at {self.address:#x} is not mapped in this process "
            f"(access of {self.size:#x} bytes)"
        )


class UnterminatedString(GuestAccessError):
    """There is no NUL where a C string should have ended.

    Attributes:
        address: guest physical address of its first byte.
        limit: bytes that were looked at.
    """

    def __init__(self, address: int, limit: int) -> None:
        super().__init__(address, limit)
        self.address = address
        self.limit = limit

    def __str__(self) -> str:
        return f"the string at {self.address:#x} has no NUL within {self.limit:#x} bytes"


class MapError(VmMemoryError, ValueError):
    """The caller asked for a memory map that cannot exist."""


class InvalidRegion(MapError):
    """A region that is empty, starts below zero or ends beyond 2^64.

    Attributes:
        start: guest physical address of the first byte.
        size: bytes.
    """

    def __init__(self, start: int, size: int, reason: str) -> None:
        super().__init__(start, size, reason)
        self.start = start
        self.size = size
        self.reason = reason

    def __str__(self) -> str:
        return f"no region of {self.size:#x} bytes at {self.start:#x}: {self.reason}"


class MemoryRegionOverlap(MapError):
    """Two regions of one map share at least one address.

    Attributes:
        start, size: the region that came second.
        other_start, other_size: the region that it runs into.
    """

    def __init__(self, start: int, size: int, other_start: int, other_size: int) -> None:
        super().__init__(start, size, other_start, other_size)
        self.start = start
        self.size = size
        self.other_start = other_start
        self.other_size = other_size

    def __str__(self) -> str:
        return (
            f"region {self.start:#x}-{self.start + self.size - 1:#x} overlaps "
            f"{self.other_start:#x}-{self.other_start + self.other_size - 1:#x}"
        )


class NoSuchRegion(MapError):
    """No region of the map has exactly this start and size.

    Attributes:
        start: guest physical address that was named.
        size: bytes that were named.
    """

    def __init__(self, start: int, size: int) -> None:
        super().__init__(start, size)
        self.start = start
        self.size = size

    def __str__(self) -> str:
        return f"the map has no region of {self.size:#x} bytes at {self.start:#x}"


class HostMemoryError(VmMemoryError, OSError):
    """The host could not do something about the memory of a region; an ``OSError``.

    Attributes:
        start: guest physical address of the memory.
        size: bytes of it.
        errno: the system's error number; None where it never came to a system call.
    """

    def __init__(self, start: int, size: int, errno: int | None, reason: str) -> None:
        super().__init__(errno, reason)
        self.start = start
        self.size = size

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """OSError keeps errno and reason alone for pickle and copy."""
        return type(self), (self.start, self.size, self.errno, self.strerror)


class MappingFailed(HostMemoryError):
    """The host could not map the memory of a region."""

    def __str__(self) -> str:
        return f"cannot map {self.size:#x} bytes for the region at {self.start:#x}: {self.strerror}"


class PolicyRefused(HostMemoryError):
    """The host refused what was asked about the pages of a region.

    Attributes:
        what: what was asked, in words.
    """

    def __init__(self, start: int, size: int, what: str, errno: int | None, reason: str) -> None:
        super().__init__(start, size, errno, reason)
        self.what = what

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """As its base, with what was asked."""
        return type(self), (self.start, self.size, self.what, self.errno, self.strerror)

    def __str__(self) -> str:
        return f"cannot {self.what} for the region at {self.start:#x}: {self.strerror}"


class HostMemoryFault(HostMemoryError):
    """The host has no memory any more behind guest addresses: their file was truncated."""

    def __str__(self) -> str:
        return (
            f"no host memory behind part of {self.size:#x} bytes at {self.start:#x}: "
            f"{self.strerror}"
        )
