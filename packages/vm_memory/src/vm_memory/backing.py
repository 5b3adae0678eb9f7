"""The kinds of host memory that a region can have, each with the file that it is, if any.

Every function returns the mapping and a descriptor that the region is going to own (NO_FILE:
there is none). What goes wrong is an OSError, or the ValueError or OverflowError by which Python
refuses a size; nothing stays open then.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat

from vm_memory import _core
from vm_memory.mapping import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: No file descriptor.
NO_FILE = -1

_MFD_HUGE_SHIFT = 26  # <linux/memfd.h>


def close(fd: int) -> None:
    """Close a descriptor that no region came to own."""
    if fd != NO_FILE:
        os.close(fd)


def anonymous(start_addr: int, size: int) -> tuple[Mapping, int]:
    """Zeroed private memory."""
    return Mapping(size, guest_address=start_addr), NO_FILE


def existing_file(
    start_addr: int, size: int, fd: int, offset: int, *, shared: bool
) -> tuple[Mapping, int]:
    """Pages of an open file, which must hold all of them."""
    own = os.dup(fd)
    try:
        _check_length(own, offset + size)
        page_size = _core.huge_page_size(own) or mmap.PAGESIZE
        if size % page_size and page_size > mmap.PAGESIZE:
            _refuse(f"the file is in huge pages of {page_size:#x} bytes, which come whole")
        mapping = Mapping(size, guest_address=start_addr, page_size=page_size)
        mapping.place_file(own, offset, shared=shared)
    except BaseException:
        os.close(own)
        raise
    return mapping, own


def new_file(start_addr: int, size: int, name: str) -> tuple[Mapping, int]:
    """A new memory file, sealed against resizing: an access to it cannot fail."""
    import fcntl  # noqa: PLC0415 - only this kind of memory needs it

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.truncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        mapping = Mapping(size, guest_address=start_addr)
        mapping.place_file(fd, 0, shared=True)
    except BaseException:
        os.close(fd)
        raise
    return mapping, fd


def new_huge_file(start_addr: int, size: int, page_size: int) -> tuple[Mapping, int]:
    """A new memory file in huge pages; the kernel sets all of them aside when it is mapped."""
    flags = os.MFD_CLOEXEC | os.MFD_HUGETLB | (page_size.bit_length() - 1) << _MFD_HUGE_SHIFT
    fd = NO_FILE
    try:
        fd = os.memfd_create("guest-memory", flags)
        os.truncate(fd, size)
        mapping = Mapping(size, guest_address=start_addr, page_size=page_size)
        mapping.place_file(fd, 0, shared=True)
    except BaseException as error:
        close(fd)
        if isinstance(error, OSError):
            raise OSError(error.errno, _huge_page_advice(size, page_size, error)) from error
        raise
    return mapping, fd


def _check_length(fd: int, end: int) -> None:
    """Raise OSError if a regular file ends before `end`; a device has no length of its own."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size < end:
        _refuse(f"the file ends at {status.st_size:#x}")


def _refuse(reason: str) -> NoReturn:
    raise OSError(errno.EINVAL, reason)


def _huge_page_advice(size: int, page_size: int, error: OSError) -> str:
    kib = page_size >> 10
    return (
        f"{error.strerror}; it takes {size // page_size} free huge pages of {kib} KiB: reserve "
        f"them in /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages, or use transparent "
        "ones (anonymous memory with huge_pages_advice)"
    )
