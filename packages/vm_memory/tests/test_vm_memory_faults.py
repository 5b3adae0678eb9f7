"""Files that are truncated under their mapping: what is prevented, reported, or documented."""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import signal
import subprocess
import sys

import pytest

from vm_memory import (
    GuestMemory,
    GuestRegion,
    HostMemoryError,
    HostMemoryFault,
    MappingFailed,
    PolicyRefused,
)

PAGE = mmap.PAGESIZE


@pytest.fixture
def shrunk():
    """Memory over a file of two pages, of which the second was cut off afterwards."""
    fd = os.memfd_create("shrinks")
    os.ftruncate(fd, 2 * PAGE)
    with GuestMemory([GuestRegion.from_fd(0x10000, 2 * PAGE, fd, track_dirty=True)]) as memory:
        memory.write(0x10000, b"first")
        os.ftruncate(fd, PAGE)
        yield memory
    os.close(fd)


@pytest.fixture
def source():
    """A file with two pages of data."""
    fd = os.memfd_create("source")
    os.write(fd, b"s" * 2 * PAGE)
    yield fd
    os.close(fd)


def test_memfd_regions_cannot_be_truncated():
    """Our own files are sealed: whoever has the descriptor can neither cut nor grow them."""
    with GuestRegion.memfd(0, 2 * PAGE) as region:
        for size in (PAGE, 3 * PAGE):
            with pytest.raises(PermissionError):
                os.ftruncate(region.file_descriptor, size)
        region.check_backing()


def test_reading_a_file_into_memory_that_is_gone(shrunk, source):
    """A typed error that is an OSError with EFAULT, not a signal."""
    with pytest.raises(
        HostMemoryFault, match="part of 0x1000 bytes at 0x11000: was its file"
    ) as caught:
        shrunk.read_from_fd(0x11000, source, PAGE, 0)
    assert isinstance(caught.value, HostMemoryError)
    assert caught.value.errno == errno.EFAULT
    with pytest.raises(HostMemoryFault):
        shrunk.readv(source, [(0x11000, 16)], 0)
    with pytest.raises(HostMemoryFault):
        shrunk.write_to_fd(0x11000, source, PAGE, 0)


def test_what_came_before_the_fault_is_dirty(shrunk, source):
    """A transfer that runs into the missing page has written the one before it."""
    shrunk.get_and_reset_dirty()
    with pytest.raises(HostMemoryFault) as caught:
        shrunk.read_from_fd(0x10000, source, 2 * PAGE, 0)
    assert caught.value.completed == PAGE
    assert shrunk.read(0x10000, 5) == b"sssss"
    assert shrunk.get_and_reset_dirty()[0][0] == 0x10000


def test_check_backing_tells_beforehand(shrunk):
    """Before anybody touches it."""
    with pytest.raises(HostMemoryFault, match="at 0x10000: their file was truncated to 0x1000"):
        shrunk.regions[0].check_backing()


def test_check_backing_counts_from_the_offset():
    """The file has to hold the region where it lies, not only as many bytes."""
    fd = os.memfd_create("shrinks")
    os.ftruncate(fd, 3 * PAGE)
    with GuestRegion.from_fd(0, PAGE, fd, 2 * PAGE) as region:
        region.check_backing()
        os.ftruncate(fd, 3 * PAGE - 1)
        with pytest.raises(HostMemoryFault):
            region.check_backing()
    os.close(fd)


def test_host_errors_can_be_copied_and_pickled():
    """With everything that they know, as an executor's worker needs it."""
    for error in (
        MappingFailed(0x1000, 2, 12, "no room"),
        HostMemoryFault(0, 1, errno.EFAULT, "gone"),
        PolicyRefused(0, 1, "do it", None, "no"),
    ):
        twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert type(twin) is type(error)
        assert vars(twin) == vars(error)
        assert (str(twin), twin.errno) == (str(error), error.errno)


def test_an_access_to_memory_that_is_gone_is_a_bus_error():
    """The documented policy: SIGBUS, as mmap(2) has it, and only for the missing page."""
    program = (
        "import os; from vm_memory import GuestMemory, GuestRegion;"
        "fd = os.memfd_create('shrinks'); os.ftruncate(fd, 8192);"
        "memory = GuestMemory([GuestRegion.from_fd(0, 8192, fd)]); os.ftruncate(fd, 4096);"
        "memory.read(4088, 8); print('first page', flush=True);"
        "memory.read(4096, 8); print('second page')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("first page\n", -signal.SIGBUS)
