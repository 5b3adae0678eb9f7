"""File descriptors and guest memory: every byte lands exactly once, or not at all."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time

import pytest

from vm_memory import GuestMemory, GuestRegion, InvalidGuestAddress, PartialBuffer


@pytest.fixture
def memory():
    """Two adjacent regions of one page and a far one."""
    with GuestMemory.from_ranges([(0, 0x1000), (0x1000, 0x1000), (0x4000, 0x1000)]) as memory:
        yield memory


@pytest.fixture
def pipe():
    """Both ends of a pipe; a test may close the writing one."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", 0) as source, os.fdopen(writer, "wb", 0) as sink:
        yield source, sink


def feed(sink, pieces):
    """Write each piece alone, with a pause, then end the stream."""
    for piece in pieces:
        sink.write(piece)
        time.sleep(0.01)
    sink.close()


def test_file_across_a_border(memory, tmp_path):
    """A read at an offset fills both regions and leaves the file position alone."""
    path = tmp_path / "data"
    path.write_bytes(bytes(100) + bytes(range(256)) * 4)
    with path.open("rb", buffering=0) as file:
        assert memory.read_from_fd(0xF00, file.fileno(), 1024, 100) == 1024
        assert file.tell() == 0
    assert memory.read(0xF00, 1024) == bytes(range(256)) * 4


def test_end_of_file_ends_early(memory, tmp_path):
    """The count says how much came; what lies behind is untouched."""
    path = tmp_path / "data"
    path.write_bytes(b"x" * 0x180)
    memory.write(0xF00, b"-" * 0x300)
    with path.open("rb", buffering=0) as file:
        assert memory.read_from_fd(0xF00, file.fileno(), 0x300) == 0x180
        assert file.tell() == 0x180
        assert memory.read_from_fd(0xF00, file.fileno(), 0x300, 0x200) == 0
    assert memory.read(0xF00, 0x300) == b"x" * 0x180 + b"-" * 0x180


def test_short_reads_leave_no_hole(memory, pipe):
    """Four bytes at a time over a border: contiguous (the anchor skips to the next region)."""
    source, sink = pipe
    data = bytes(range(1, 33))
    feeder = threading.Thread(target=feed, args=(sink, [data[i : i + 4] for i in range(0, 32, 4)]))
    feeder.start()
    assert memory.read_from_fd(0xFF0, source.fileno(), 32) == 32
    feeder.join()
    assert memory.read(0xFF0, 32) == data


def test_socket_in_two_pieces(memory):
    """6 then 10 bytes into one region are 16 (the anchor reports PartialBuffer)."""
    left, right = socket.socketpair()
    with left, right:
        feeder = threading.Thread(
            target=lambda: (left.send(b"abcdef"), time.sleep(0.01), left.send(b"0123456789"))
        )
        feeder.start()
        assert memory.read_from_fd(0x10, right.fileno(), 16) == 16
        feeder.join()
    assert memory.read(0x10, 16) == b"abcdef0123456789"


def test_interrupted_read_goes_on(memory, pipe):
    """A signal during the read (EINTR) loses nothing."""
    source, sink = pipe
    hits = []
    previous = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        feeder = threading.Thread(target=feed, args=(sink, [b"ab", b"cd", b"ef"]))
        feeder.start()
        assert memory.read_from_fd(0, source.fileno(), 6) == 6
        feeder.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert hits
    assert memory.read(0, 6) == b"abcdef"


def test_nonblocking_read_gives_what_is_there(memory, pipe):
    """Some bytes: their count. None: BlockingIOError. End: 0."""
    source, sink = pipe
    os.set_blocking(source.fileno(), False)
    with pytest.raises(BlockingIOError):
        memory.read_from_fd(0, source.fileno(), 8)
    sink.write(b"abc")
    assert memory.read_from_fd(0, source.fileno(), 8) == 3
    sink.close()
    assert memory.read_from_fd(0, source.fileno(), 8) == 0


def test_nonblocking_write_gives_what_went(memory, pipe):
    """A full pipe ends the write early; full from the start it is BlockingIOError."""
    source, sink = pipe
    os.set_blocking(sink.fileno(), False)
    capacity = 0
    with pytest.raises(BlockingIOError):  # noqa: PT012 - filling the pipe is the set-up
        while True:
            capacity += memory.write_to_fd(0, sink.fileno(), 0x1000)
    source.read(0x1000)
    assert memory.write_to_fd(0, sink.fileno(), 0x2000) == 0x1000
    assert capacity >= 0x1000


def test_write_to_file_at_an_offset(memory, tmp_path):
    """A write crosses the border and goes exactly where it was told."""
    memory.write(0xFF8, b"0123456789abcdef")
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        assert memory.write_to_fd(0xFF8, file.fileno(), 16, 4) == 16
        assert file.tell() == 0
        assert memory.write_to_fd(0xFF8, file.fileno(), 4) == 4
        assert os.pread(file.fileno(), 32, 0) == b"01230123456789abcdef"


def test_bad_range_touches_nothing(memory, pipe):
    """The range is checked before the first byte leaves the pipe."""
    source, sink = pipe
    sink.write(b"data")
    with pytest.raises(PartialBuffer):
        memory.read_from_fd(0x1FFE, source.fileno(), 4)
    with pytest.raises(InvalidGuestAddress):
        memory.read_from_fd(0x2000, source.fileno(), 4)
    with pytest.raises(PartialBuffer):
        memory.write_to_fd(0x1FFE, sink.fileno(), 4)
    assert source.read(8) == b"data"
    assert memory.read(0x1FFE, 2) == b"\0\0"


def test_more_regions_than_one_call_takes(tmp_path):
    """The kernel takes 1024 buffers per call; a range over more regions is continued."""
    count = 1500
    data = os.urandom(count * 16)
    path = tmp_path / "data"
    path.write_bytes(data)
    with GuestMemory.from_ranges([(16 * i, 16) for i in range(count)]) as memory:
        with path.open("r+b", buffering=0) as file:
            assert memory.read_from_fd(3, file.fileno(), len(data) - 3, 3) == len(data) - 3
            assert memory.read(3, len(data) - 3) == data[3:]
            file.truncate(0)
            assert memory.write_to_fd(0, file.fileno(), len(data)) == len(data)
        assert path.read_bytes()[3:] == data[3:]


def test_os_errors_pass_through(memory):
    """A bad descriptor is the OSError that the kernel gave."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        memory.read_from_fd(0, -1, 4)
    with pytest.raises(OSError, match="Bad file descriptor"):
        memory.write_to_fd(0, -1, 4, 0)


def test_one_call_into_several_pieces(memory, pipe):
    """What one read gives fills the pieces in order, across a border too; it is not continued."""
    source, sink = pipe
    sink.write(b"0123456789")
    spans = [(0x4000, 3), (0xFFE, 4), (0x10, 8)]
    assert memory.readv(source.fileno(), spans) == 10
    assert (memory.read(0x4000, 3), memory.read(0xFFE, 4)) == (b"012", b"3456")
    assert memory.read(0x10, 4) == b"789\0"


def test_one_call_out_of_several_pieces(memory, tmp_path):
    """The pieces in order, at an offset or at the file's position."""
    memory.write(0xFFE, b"abcd")
    memory.write(0x4000, b"xyz")
    spans = [(0x4000, 3), (0xFFE, 4), (0x4001, 1)]
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        assert memory.writev(file.fileno(), spans, 2) == 8
        assert memory.writev(file.fileno(), spans[:1]) == 3
        assert os.pread(file.fileno(), 32, 0) == b"xyzyzabcdy"


def test_every_piece_is_checked_before_the_call(memory, pipe):
    """A bad last piece leaves the pipe full and the good first one alone."""
    source, sink = pipe
    sink.write(b"data")
    for bad in [(0x3000, 1), (0x1FFF, 2), (0x4FFF, 2)]:
        with pytest.raises((InvalidGuestAddress, PartialBuffer)):
            memory.readv(source.fileno(), [(0, 2), bad])
    assert memory.read(0, 2) == b"\0\0"
    assert source.read(4) == b"data"
    with pytest.raises(TypeError, match="is no \\(address, size\\)"):
        memory.readv(source.fileno(), [(0, 2, 3)])


def test_no_pieces_is_no_bytes(memory, pipe):
    """An empty list, and pieces of no bytes, move nothing."""
    _source, sink = pipe
    assert memory.writev(sink.fileno(), []) == 0
    assert memory.writev(sink.fileno(), [(0x3000, 0), (0, 0)]) == 0


def test_more_pieces_than_one_call_takes(memory, pipe):
    """IOV_MAX is the kernel's: nothing is moved, rather than a packet cut off."""
    _source, sink = pipe
    assert memory.writev(sink.fileno(), [(0, 1)] * 1024) == 1024
    with pytest.raises(OSError, match="Invalid argument"):
        memory.writev(sink.fileno(), [(0, 1)] * 1025)


def test_an_error_says_how_much_went_before(memory, tmp_path):
    """A file that may not grow further: part of the bytes, then EFBIG with their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                memory.write_to_fd(0, file, 0x2000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)
        assert caught.value.completed == 5000
        assert os.fstat(file.fileno()).st_size == 5000


def test_signals_are_heard_while_data_flows():
    """A handler runs between the calls of a long transfer, and what it raises ends that."""

    def handler(_number, _frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, handler)
    zero = os.open("/dev/zero", os.O_RDONLY)
    with GuestMemory([GuestRegion.anonymous(n << 20, 1 << 20) for n in range(4096)]) as large:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            started = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                large.read_from_fd(0, zero, 4096 << 20)
        finally:
            signal.signal(signal.SIGALRM, previous)
            os.close(zero)
        assert time.monotonic() - started < 60


def test_messages_keep_their_borders(memory):
    """One datagram is one call, scattered or gathered, with its ancillary data."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, open(os.devnull, "rb") as passed:  # noqa: PTH123 - any descriptor
        memory.write(0xFFE, b"abcd")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed.fileno().to_bytes(4, "little"))]
        assert memory.sendmsg(left, [(0xFFE, 4), (0x1000, 1)], rights) == 5
        assert memory.sendmsg(left, [(0xFFE, 1)]) == 1
        size, ancillary, flags, _sender = memory.recvmsg(
            right, [(0x10, 2), (0x4000, 9)], socket.CMSG_SPACE(4)
        )
        assert (size, flags & ~socket.MSG_CMSG_CLOEXEC) == (5, 0)
        assert memory.read(0x10, 2) + memory.read(0x4000, 4) == b"abcdc\0"
        ((_level, kind, data),) = ancillary
        assert kind == socket.SCM_RIGHTS
        received = int.from_bytes(data, "little")
        assert os.path.sameopenfile(received, passed.fileno())
        os.close(received)
        assert memory.recvmsg(right, [(0x10, 9)])[0] == 1


def test_a_datagram_has_an_address(memory):
    """A socket that is not connected says where to send, and learns who sent."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        memory.write(0, b"ping")
        assert memory.sendmsg(one, [(0, 4)], address=other.getsockname()) == 4
        size, _ancillary, _flags, sender = memory.recvmsg(other, [(0x20, 8)])
        assert (size, sender) == (4, one.getsockname())
        assert memory.read(0x20, 4) == b"ping"


def test_transfers_let_go_of_the_memory(memory, pipe):
    """After a call, also one that failed, nothing is borrowed."""
    source, sink = pipe
    sink.write(b"x")
    memory.readv(source.fileno(), [(0, 8)])
    memory.writev(sink.fileno(), [(0, 8)])
    kept = []
    for call in (
        lambda: memory.readv(-1, [(0, 8)]),
        lambda: memory.writev(-1, [(0, 8)], 3),
        lambda: memory.read_from_fd(0, -1, 8),
        lambda: memory.readv(source.fileno(), [(0, 8), (0x3000, 1)]),
    ):
        try:
            call()
        except (OSError, InvalidGuestAddress) as error:
            kept.append(error)
    memory.close()
    assert len(kept) == 4


def test_anything_with_a_descriptor_is_a_descriptor(memory, tmp_path):
    """As in the standard library: a number, or an object with fileno()."""
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        memory.write(0, b"data")
        assert memory.write_to_fd(0, file, 4) == 4
        assert memory.readv(file, [(0x100, 4)], 0) == 4
        assert memory.read(0x100, 4) == b"data"
    with pytest.raises(TypeError):
        memory.read_from_fd(0, "3", 4)
    for number in (-1, 1 << 40):
        with pytest.raises(OSError, match="Bad file descriptor"):
            memory.readv(number, [(0, 4)])


def test_offsets_are_places_in_a_file(memory, pipe):
    """Negative ones and ones beyond 2^63 are the caller's mistake."""
    source, _sink = pipe
    for offset in (-1, 1 << 63, 1 << 70):
        for call in (
            lambda o=offset: memory.read_from_fd(0, source, 4, o),
            lambda o=offset: memory.writev(source, [(0, 4)], o),
        ):
            with pytest.raises(ValueError, match=r"an offset in a file is from 0 to 2\^63 - 1"):
                call()


def test_a_handlers_exception_ends_the_transfer(memory, pipe):
    """What a signal handler raises comes out, and the memory is borrowed no more."""
    source, sink = pipe

    def handler(_number, _frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        for transfer in (
            lambda: memory.read_from_fd(0, source, 8),
            lambda: memory.readv(source, [(0, 8)]),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt):
                transfer()
    finally:
        signal.signal(signal.SIGALRM, previous)
    sink.write(b"still in the pipe")
    assert source.read(5) == b"still"
    memory.close()


def test_pieces_are_borrowed_while_they_are_collected(memory, pipe):
    """A generator of spans that closes a region on the way gets the error, nobody else."""
    source, sink = pipe
    sink.write(b"data")

    def spans(region):
        yield (0x10, 2)
        region.close()
        yield (0x4000, 2)

    with pytest.raises(BufferError, match="still borrowed"):
        memory.readv(source, spans(memory.regions[0]))
    with pytest.raises(ValueError, match="<GuestRegion 0x4000-0x4fff> is closed"):
        memory.readv(source, spans(memory.regions[2]))
    assert source.read(4) == b"data"
