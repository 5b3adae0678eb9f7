"""IommuMemory: the rules of its docstring, and a model that looks up every byte on its own."""

from __future__ import annotations

import doctest
import itertools
import os
import socket

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from vm_memory import (
    CannotResolve,
    Fragmented,
    GuestAccessError,
    GuestMemory,
    GuestRegion,
    HostAddressNotAvailable,
    InvalidGuestAddress,
    IommuMemory,
    IommuMisconfigured,
    Iotlb,
    MisalignedAccess,
    Ordering,
    PartialBuffer,
    Permissions,
    VmMemoryError,
    iommu,
)

TOP = 2**64
NO, READ, WRITE = Permissions.NO, Permissions.READ, Permissions.WRITE
READ_WRITE = Permissions.READ_WRITE
RIGHTS = [NO, READ, WRITE, READ_WRITE]


@pytest.fixture
def physical():
    """Two adjacent regions, and a third behind a hole."""
    ranges = [(0, 0x2000), (0x2000, 0x1000), (0x8000, 0x1000)]
    with GuestMemory.from_ranges(ranges, track_dirty=True) as memory:
        yield memory


@pytest.fixture
def iotlb():
    """0xf000 to two pages that are apart, the second for reading only; behind it nothing.

    0xa000 leads to the border of two regions, 0xb000 to the end of memory, 0xc000 to none.
    """
    table = Iotlb()
    table.set_mapping(0xF000, 0x1000, 0x1000, READ_WRITE)
    table.set_mapping(0x10000, 0x8000, 0x1000, READ)
    table.set_mapping(0xA000, 0x1800, 0x1000, READ_WRITE)
    table.set_mapping(0xB000, 0x8800, 0x1000, READ_WRITE)
    table.set_mapping(0xC000, 0x40000, 0x1000, READ_WRITE)
    return table


@pytest.fixture
def file_fd():
    fd = os.memfd_create("file")
    yield fd
    os.close(fd)


@pytest.fixture
def memory(physical, iotlb):
    return IommuMemory(physical, iotlb)


def test_examples_are_true():
    """The docstring's example runs."""
    result = doctest.testmod(iommu)
    assert result.attempted > 4
    assert result.failed == 0


def test_an_access_crosses_pieces(memory, physical):
    """The bytes come from where they are mapped, in order."""
    physical.write(0x1FFE, b"ab")
    physical.write(0x8000, b"cd")
    assert memory.read(0xFFFE, 4) == b"abcd"
    target = bytearray(4)
    memory.read_into(0xFFFE, target)
    assert target == b"abcd"
    assert [bytes(view) for view in memory.iovec(0xFFFE, 4, writable=False)] == [b"ab", b"cd"]
    memory.write(0xA7FE, b"wxyz")
    assert physical.read(0x1FFE, 4) == b"wxyz"


def test_zero_bytes_translate_nothing(memory):
    """At any address, mapped or not."""
    for address in (0xF000, 0x5, TOP, -1):
        assert memory.read(address, 0) == b""
        memory.write(address, b"")
        memory.read_into(address, bytearray())
        assert memory.iovec(address, 0) == []
        assert len(memory.view(address, 0)) == 0
        assert memory.check_range(address, 0)
        assert memory.read_from_fd(address, -1, 0) == 0
        assert memory.write_to_fd(address, -1, 0) == 0


def test_negative_size_is_a_value_error(memory):
    """The caller's mistake, as everywhere in this package."""
    for access in (memory.read, memory.view, memory.iovec, memory.check_range):
        with pytest.raises(ValueError, match="a size cannot be negative, as -1 is"):
            access(0xF000, -1)


def accesses(memory, address):
    """Every access of 4 bytes at an address, by name."""
    return {
        "read": lambda: memory.read(address, 4),
        "read_into": lambda: memory.read_into(address, bytearray(4)),
        "iovec": lambda: memory.iovec(address, 4, writable=False),
        "view": lambda: memory.view(address, 4, writable=False),
        "load": lambda: memory.load(address, 4),
        "write_to_fd": lambda: memory.write_to_fd(address, -1, 4),
        "write": lambda: memory.write(address, b"abcd"),
        "writable iovec": lambda: memory.iovec(address, 4),
        "writable view": lambda: memory.view(address, 4),
        "store": lambda: memory.store(address, 0, 4),
        "read_from_fd": lambda: memory.read_from_fd(address, -1, 4),
    }


READERS = {"read", "read_into", "iovec", "view", "load", "write_to_fd"}
NAMES = list(accesses(None, 0))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_byte_must_be_mapped_and_be_memory(memory, name):
    """Two different errors: the guest's mapping is missing, or it leads nowhere."""
    with pytest.raises(CannotResolve, match="0x5000-0x5003 is not mapped") as caught:
        accesses(memory, 0x5000)[name]()
    assert caught.value.misses == ((0x5000, 4),)
    with pytest.raises(InvalidGuestAddress, match="no guest memory at 0x40010 "):
        accesses(memory, 0xC010)[name]()


@pytest.mark.parametrize("name", NAMES)
def test_permission_is_checked_by_what_an_access_does(physical, name):
    """Reading needs READ and nothing else, writing WRITE and nothing else."""
    needed, other = (READ, WRITE) if name in READERS else (WRITE, READ)
    table = Iotlb()
    memory = IommuMemory(physical, table)
    table.set_mapping(0x5000, 0, 0x1000, other)
    with pytest.raises(CannotResolve, match="0x5000-0x5003 does not permit it") as caught:
        accesses(memory, 0x5000)[name]()
    assert caught.value.failures == ((0x5000, 4),)
    table.set_mapping(0x5000, 0, 0x1000, needed)
    if name.endswith("fd"):  # -1 is no file: it came as far as the system call
        with pytest.raises(OSError, match="Bad file descriptor"):
            accesses(memory, 0x5000)[name]()
    else:
        accesses(memory, 0x5000)[name]()


def test_a_partial_write_has_written_the_start(memory, physical):
    """Not permitted, not memory: `completed` bytes are there, and the cause says why."""
    for address, place, cause in [
        (0xFFFE, 0x1FFE, CannotResolve),
        (0xB7FE, 0x8FFE, InvalidGuestAddress),
    ]:
        with pytest.raises(PartialBuffer, match=f"only 0x2 of 0x4 bytes at {address:#x}") as caught:
            memory.write(address, b"abcd")
        assert isinstance(caught.value.__cause__, cause)
        assert physical.read(place, 2) == b"ab"
    assert physical.read(0x8000, 2) == bytes(2)
    target = bytearray(4)
    with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0x10ffe") as caught:
        memory.read_into(0x10FFE, target)
    assert target == b"ab\0\0"
    assert caught.value.__cause__.misses == ((0x11000, 2),)


def test_a_partial_transfer_has_transferred_nothing(memory, physical):
    """The file is where it was, too."""
    fd = os.memfd_create("partial")
    try:
        os.write(fd, b"abcd")
        os.lseek(fd, 0, os.SEEK_SET)
        for access in (memory.read, memory.iovec, lambda a, n: memory.read_from_fd(a, fd, n)):
            with pytest.raises(PartialBuffer) as caught:
                access(0xB7FE, 4)
            assert caught.value.completed == 2
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    finally:
        os.close(fd)
    assert physical.read(0x8FFE, 2) == bytes(2)


def test_what_must_be_one_piece_is_told_if_it_is_not(memory, iotlb):
    """Several pieces, the end of the translation, and the border of two regions."""
    iotlb.set_mapping(0x10000, 0x8000, 0x1000, READ_WRITE)
    for access in (memory.view, lambda a, n: memory.view(a, n, writable=False)):
        with pytest.raises(Fragmented, match="the first ends after 0x2") as caught:
            access(0xFFFE, 4)
        assert (caught.value.address, caught.value.size) == (0xFFFE, 4)
        assert caught.value.contiguous == 2
        with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0x10ffe") as caught:
            access(0x10FFE, 4)
        assert isinstance(caught.value.__cause__, CannotResolve)
        with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0xa7fe"):
            access(0xA7FE, 4)
        with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0xb7fe"):
            access(0xB7FE, 4)
    iotlb.set_mapping(0x20000, 0x40000, 2, READ_WRITE)
    iotlb.set_mapping(0x20002, 0, 2, READ_WRITE)
    with pytest.raises(InvalidGuestAddress, match="0x40000"):
        memory.view(0x20000, 4)
    iotlb.set_mapping(0x20000, 0, 2, READ_WRITE)
    iotlb.set_mapping(0x20002, 0x100, 2, READ_WRITE)
    for access in (memory.load, lambda a, n: memory.store(a, 0, n)):
        with pytest.raises(Fragmented):
            access(0x20000, 4)
    assert issubclass(Fragmented, GuestAccessError)


def test_alignment_is_that_of_the_physical_address(memory, iotlb):
    """The host's access is what must not tear."""
    iotlb.set_mapping(0x20000, 0x1001, 0x100, READ_WRITE)
    with pytest.raises(MisalignedAccess, match="0x1001 is not aligned"):
        memory.load(0x20000, 4)
    memory.store(0x20003, 0xCAFE, 4)
    assert memory.load(0x20003, 4) == 0xCAFE
    for access in (lambda: memory.load(0xF000, 3), lambda: memory.store(0xF000, 0, 0)):
        with pytest.raises(ValueError, match="an integer has 1, 2, 4 or 8 bytes, not"):
            access()


def test_options_reach_the_memory(memory):
    """Views that cannot be written, and orders that the memory refuses."""
    for view in (
        memory.view(0xF000, 4, writable=False),
        memory.view(0, 0, writable=False),
        *memory.iovec(0xF000, 4, writable=False),
    ):
        assert view.readonly
        view.release()
    memory.store(0xF000, 5, 4, order=Ordering.SEQ_CST)
    assert memory.load(0xF000, 4, Ordering.SEQ_CST) == 5
    with pytest.raises(ValueError, match="is no order of a load"):
        memory.load(0xF000, 4, Ordering.RELEASE)
    with pytest.raises(ValueError, match="is no order of a store"):
        memory.store(0xF000, 5, 4, Ordering.ACQUIRE)


def test_one_call_over_several_ranges(memory, physical, file_fd):
    """Every range is translated and permitted before the first byte moves."""
    os.pwrite(file_fd, b"abcdef", 0)
    spans = [(0xFFFE, 2), (0xF000, 4)]
    assert memory.readv(file_fd, spans, 0) == 6
    assert (physical.read(0x1FFE, 2), physical.read(0x1000, 4)) == (b"ab", b"cdef")
    assert memory.writev(file_fd, [(0xFFFE, 2), (0x10000, 2)], 0) == 4
    assert os.pread(file_fd, 4, 0) == b"ab" + physical.read(0x8000, 2)
    with pytest.raises(CannotResolve):
        memory.readv(file_fd, [(0xF000, 4), (0x10000, 2)], 0)
    with pytest.raises(PartialBuffer):
        memory.writev(file_fd, [(0x10FFF, 2)], 0)


def test_messages_by_io_address(memory, physical):
    """One datagram into and out of ranges."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        physical.write(0x1FFE, b"ab")
        physical.write(0x8000, b"cd")
        assert memory.sendmsg(left, [(0xFFFE, 4)]) == 4
        assert memory.recvmsg(right, [(0xF000, 2), (0xF010, 9)])[0] == 4
        assert physical.read(0x1000, 2) + physical.read(0x1010, 2) == b"abcd"


def test_marks_are_by_guest_physical_address(memory, physical):
    """What is written by I/O address, or said to be, is dirty where it lies."""
    memory.write(0xF000, b"x")
    assert physical.get_and_reset_dirty() == [(0x1000, 0x1000)]
    memory.mark_dirty(0xA7FF, 2)
    assert physical.get_and_reset_dirty() == [(0x1000, 0x2000)]
    with pytest.raises(CannotResolve, match="does not permit it"):
        memory.mark_dirty(0x10000, 1)


def test_memory_that_is_not_mapped_here(iotlb, file_fd):
    """A device is led to guest_memfd memory: the error says that it is there and out of reach."""
    regions = [GuestRegion.anonymous(0, 0x1000), GuestRegion.guest_memfd(0x1000, 0x1000, file_fd)]
    with GuestMemory(regions) as physical:
        memory = IommuMemory(physical, iotlb)
        iotlb.set_mapping(0x5000, 0x800, 0x1000, READ_WRITE)
        for access in (
            lambda: memory.read(0xF000, 4),
            lambda: memory.load(0xF000, 4),
            lambda: memory.view(0xF000, 4),
        ):
            with pytest.raises(HostAddressNotAvailable):
                access()
        assert not memory.check_range(0xF000, 1)
        with pytest.raises(PartialBuffer) as caught:
            memory.read(0x5000, 0x1000)
        assert caught.value.completed == 0x800
        assert isinstance(caught.value.__cause__, HostAddressNotAvailable)


def test_check_range_asks_for_an_access(memory):
    """For reading and writing unless told otherwise; mapped and in memory to the last byte."""
    assert memory.check_range(0xF000, 0x1000)
    assert not memory.check_range(0xF000, 0x1001)
    assert memory.check_range(0xF000, 0x2000, READ)
    assert not memory.check_range(0xF000, 0x2001, READ)
    assert not memory.check_range(0xB000, 0x801)
    assert not memory.check_range(0x5000, 1, NO)


def test_disabled_translation_passes_through(memory, physical):
    """Addresses are guest physical then, and the errors those of the memory itself."""
    memory.iommu_enabled = False
    memory.write(0x1FFE, b"abcd")
    assert physical.read(0x1FFE, 4) == b"abcd"
    assert memory.read(0x2000, 2) == b"cd"
    for access, address, error in [
        (memory.read, 0x5000, InvalidGuestAddress),
        (memory.read, 0x2FFE, PartialBuffer),
        (memory.view, 0x1FFE, PartialBuffer),
        (memory.load, 0x1001, MisalignedAccess),
    ]:
        with pytest.raises(error) as through:
            access(address, 4)
        with pytest.raises(error) as direct:
            getattr(physical, access.__name__)(address, 4)
        assert through.value.args == direct.value.args
    memory.iommu_enabled = True
    with pytest.raises(CannotResolve):
        memory.read(0x2000, 2)


def test_a_replaced_backend_keeps_the_iommu(memory, iotlb):
    """As when memory is added: the same translations and the same state, other memory."""
    memory.iommu_enabled = False
    with GuestMemory.from_ranges([(0x1000, 0x1000)]) as other:
        replaced = memory.with_replaced_backend(other)
        assert (replaced.physical_memory, replaced.iommu) == (other, iotlb)
        assert not replaced.iommu_enabled
        replaced.iommu_enabled = True
        replaced.write(0xF000, b"new")
        assert other.read(0x1000, 3) == b"new"
        assert not memory.iommu_enabled
        assert repr(memory).startswith("<IommuMemory, translation off, of <GuestMemory [")


@pytest.mark.parametrize("answer", [[], [(0, 3)], [(0, 5)], [(0, 5), (0, -1)], [(0, 4), (0, 0)]])
def test_an_iommu_that_answers_wrongly_is_no_guests_mistake(physical, answer):
    """Too little, too much, empty pieces: nothing is accessed on the strength of that."""

    class Wrong:
        def translate(self, *_range):
            return answer

    memory = IommuMemory(physical, Wrong())
    for access in accesses(memory, 0).values():
        with pytest.raises(IommuMisconfigured, match="has pieces of") as caught:
            access()
        assert not isinstance(caught.value, GuestAccessError)
        assert isinstance(caught.value, VmMemoryError)


def test_an_iommu_that_names_no_reason_does_not_loop(physical):
    """A CannotResolve without any part is passed on as it is."""

    class Vague:
        def translate(self, iova, size, access):
            raise CannotResolve(iova, size, access, (), ())

    with pytest.raises(CannotResolve):
        IommuMemory(physical, Vague()).read(0, 4)


def test_files_go_through_the_pieces(memory, physical, iotlb):
    """At an offset and at the file's own position; a short file ends early."""
    iotlb.set_mapping(0x10000, 0x8000, 0x1000, READ_WRITE)
    fd = os.memfd_create("pieces")
    try:
        os.write(fd, b"..abcd")
        assert memory.read_from_fd(0xFFFE, fd, 4, 2) == 4
        assert physical.read(0x1FFE, 2) + physical.read(0x8000, 2) == b"abcd"
        os.lseek(fd, 3, os.SEEK_SET)
        assert memory.read_from_fd(0xFFFE, fd, 4) == 3
        assert memory.read_from_fd(0xFFFE, fd, 4) == 0
        assert physical.read(0x1FFE, 2) + physical.read(0x8000, 2) == b"bcdd"
        assert memory.write_to_fd(0xFFFE, fd, 4, 1) == 4
        assert os.pread(fd, 9, 0) == b".bcddd"
    finally:
        os.close(fd)


def test_a_pipe_that_would_block_ends_a_transfer_early(memory, iotlb):
    """An error only if nothing was read before."""
    iotlb.set_mapping(0x10000, 0x8000, 0x1000, READ_WRITE)
    reader, writer = os.pipe()
    try:
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            memory.read_from_fd(0xFFFE, reader, 4)
        os.write(writer, b"ab")
        assert memory.read_from_fd(0xFFFE, reader, 4) == 2
        assert memory.read(0xFFFE, 2) == b"ab"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_piece_that_comes_up_short_ends_a_transfer(iotlb):
    """What the source has later belongs behind the short piece, not into the next one."""
    iotlb.set_mapping(0x10000, 0x8000, 0x1000, READ_WRITE)
    asked = []

    class Short(GuestMemory):
        def read_from_fd(self, address, fd, size, offset=None):
            asked.append((address, fd, size, offset))
            return 1

    with Short.from_ranges([(0, 0x9000)]) as physical:
        assert IommuMemory(physical, iotlb).read_from_fd(0xFFFE, 77, 4, 9) == 1
    assert asked == [(0x1FFE, 77, 2, 9)]


def test_a_later_piece_that_is_not_memory_makes_an_access_partial(memory, physical, iotlb):
    """The first piece is written, although the second leads nowhere at all."""
    iotlb.set_mapping(0x10000, 0x40000, 0x1000, READ_WRITE)
    with pytest.raises(PartialBuffer, match="only 0x2 of 0x4 bytes at 0xfffe") as caught:
        memory.write(0xFFFE, b"abcd")
    assert physical.read(0x1FFE, 2) == b"ab"
    assert caught.value.__cause__.address == 0x40000
    iotlb.invalidate_mapping(0x10000, 0x1000)
    with pytest.raises(PartialBuffer) as caught:  # the memory goes on, the translation does not
        memory.view(0xFFFE, 4)
    assert caught.value.completed == 2
    iotlb.set_mapping(0x10000, 0x8FFE, 4, READ_WRITE)
    with pytest.raises(PartialBuffer) as caught:  # the translation goes on, the memory does not
        memory.view(0x10000, 8)
    assert caught.value.completed == 2


def test_kept_errors_borrow_nothing(memory, physical):
    """An exception that somebody keeps does not keep the memory from being closed."""
    kept = []
    source = physical.view(0, 0x1000)
    for access in (
        lambda: memory.write(0xF800, source),
        lambda: memory.read_into(0x10800, bytearray(0x1000)),
        lambda: memory.iovec(0xB000, 0x1000),
        lambda: memory.view(0xA000, 0x1000),
    ):
        with pytest.raises(PartialBuffer) as caught:
            access()
        kept.append(caught.value)
    source.release()
    physical.close()
    assert len(kept) == 4


HOLE = range(40, 48)
GPAS = 96
iovas = st.builds(
    lambda base, delta: base + delta, st.sampled_from([0, TOP - 64]), st.integers(0, 63)
)


class IommuModel(RuleBasedStateMachine):
    """Mappings and accesses of a few bytes, over memory with a hole and a border."""

    @initialize()
    def start(self):
        self.physical = GuestMemory.from_ranges([(0, 24), (24, 16), (48, 48)])
        self.iotlb = Iotlb()
        self.memory = IommuMemory(self.physical, self.iotlb)
        self.map = {}
        self.bytes = {n: 0 for n in range(GPAS) if n not in HOLE}

    def teardown(self):
        self.physical.close()

    @rule(
        iova=iovas,
        gpa=st.integers(0, GPAS),
        size=st.integers(1, 40),
        rights=st.sampled_from(RIGHTS),
    )
    def set_mapping(self, iova, gpa, size, rights):
        size = min(size, TOP - iova)
        self.iotlb.set_mapping(iova, gpa, size, rights)
        self.map.update({iova + n: (gpa + n, rights) for n in range(size)})

    @rule(iova=iovas, gpa=st.sampled_from([0, 20, 36, 44, 90, 96]), rights=st.sampled_from(RIGHTS))
    def set_small_mapping(self, iova, gpa, rights):
        """Four bytes before, on or behind a border, often beside another mapping."""
        self.set_mapping(iova - iova % 4, gpa, 4, rights | WRITE)

    @rule(iova=iovas, size=st.integers(0, 20))
    def invalidate(self, iova, size):
        self.iotlb.invalidate_mapping(iova, size)
        for n in range(size):
            self.map.pop(iova + n, None)

    @rule(enabled=st.booleans())
    def switch(self, enabled):
        self.memory.iommu_enabled = enabled

    def reach(self, iova, size, access):
        """The guest physical addresses of the bytes up to the first bad one; its error."""
        found = []
        for address in range(iova, iova + size):
            gpa = address
            if self.memory.iommu_enabled:
                gpa, rights = self.map.get(address, (None, NO))
                if gpa is None or access & ~rights:
                    return found, CannotResolve
            if gpa not in self.bytes:
                return found, InvalidGuestAddress
            found.append(gpa)
        return found, None

    def attempt(self, iova, size, access, call):
        """Calls `call`; its result, after its error was the model's."""
        found, error = self.reach(iova, size, access)
        if error is None:
            return found, call()
        with pytest.raises(PartialBuffer if found else error) as caught:
            call()
        if found:
            assert caught.value.args == (iova, size, len(found))
            assert isinstance(caught.value.__cause__, error)
        return found, None

    def peek(self, found):
        return bytes(self.bytes[gpa] for gpa in found)

    @rule(iova=iovas, size=st.integers(0, 40))
    def read(self, iova, size):
        found, data = self.attempt(iova, size, READ, lambda: self.memory.read(iova, size))
        assert data is None or data == self.peek(found)
        buffer = bytearray(size)
        self.attempt(iova, size, READ, lambda: self.memory.read_into(iova, buffer))
        assert buffer == self.peek(found).ljust(size, b"\0")
        assert self.memory.check_range(iova, size, READ) == (len(found) == size)

    @rule(iova=iovas, data=st.binary(max_size=40))
    def write(self, iova, data):
        found, _ = self.attempt(iova, len(data), WRITE, lambda: self.memory.write(iova, data))
        self.bytes.update(zip(found, data, strict=False))
        self.agree()

    @rule(iova=iovas, data=st.binary(max_size=40))
    def views(self, iova, data):
        found, views = self.attempt(
            iova, len(data), WRITE, lambda: self.memory.iovec(iova, len(data))
        )
        for view in views or ():
            view[:], data = data[: len(view)], data[len(view) :]
            self.bytes.update(zip(found, view, strict=False))
            found = found[len(view) :]
        self.agree()

    @rule(iova=iovas, size=st.integers(1, 40))
    def view(self, iova, size):
        """What ends a view first: its first byte, its piece, the translation, or its region."""
        gpas = self.translated(iova, size, WRITE)
        run = sum(1 for n, gpa in enumerate(gpas) if gpas[: n + 1] == list(range(gpas[0], gpa + 1)))
        found, _error = self.reach(iova, size, WRITE)
        expected = None
        if not gpas:
            expected = CannotResolve
        elif not found:
            expected = InvalidGuestAddress
        elif run == size:
            room = next(end for end in (24, 40, 96) if end > gpas[0]) - gpas[0]
            expected = (PartialBuffer, iova, size, room) if room < size else None
        elif run < len(gpas):
            expected = (Fragmented, iova, size, run)
        else:
            expected = (PartialBuffer, iova, size, len(found))
        if expected is None:
            assert self.memory.view(iova, size) == self.peek(found)
        elif isinstance(expected, tuple):
            with pytest.raises(expected[0]) as caught:
                self.memory.view(iova, size)
            assert caught.value.args == expected[1:]
        else:
            with pytest.raises(expected):
                self.memory.view(iova, size)

    def translated(self, iova, size, access):
        """The guest physical addresses up to the first that is not translated, memory or not."""
        wanted = range(iova, iova + size)
        if not self.memory.iommu_enabled:
            return list(wanted)
        pairs = [self.map.get(address, (None, NO)) for address in wanted]
        good = itertools.takewhile(lambda p: p[0] is not None and not access & ~p[1], pairs)
        return [gpa for gpa, _rights in good]

    @rule(iova=iovas, data=st.binary(max_size=40), missing=st.integers(0, 6))
    def files(self, iova, data, missing):
        fd = os.memfd_create("model")
        size = len(data)
        try:
            os.write(fd, data[: max(size - missing, 0)])
            present = os.fstat(fd).st_size
            found, count = self.attempt(
                iova, size, WRITE, lambda: self.memory.read_from_fd(iova, fd, size, 0)
            )
            if count is not None:
                assert count == present
                self.bytes.update(zip(found, data[:present], strict=False))
            found, count = self.attempt(
                iova, size, READ, lambda: self.memory.write_to_fd(iova, fd, size, 3)
            )
            if count is not None:
                assert count == size
                assert os.pread(fd, size + 1, 3)[:size] == self.peek(found)
        finally:
            os.close(fd)
        self.agree()

    def agree(self):
        for start, size in ((0, 40), (48, 48)):
            assert self.physical.read(start, size) == self.peek(range(start, start + size))


TestIommuModel = IommuModel.TestCase
TestIommuModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
