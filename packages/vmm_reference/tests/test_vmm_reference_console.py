"""Bytes from a descriptor into a serial port at the guest's pace, and out again."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.console import ConsoleInput, FdWriter
from vmm_reference.event_loop import EventLoop
from vmm_reference.terminal import EscapeFilter


class Port:
    """A serial port with a FIFO of `size` bytes, as a guest that reads when told to."""

    def __init__(self, size):
        self.size = size
        self.fifo = bytearray()
        self.offered = 0
        self.on_room = lambda: None

    def receive(self, data):
        self.offered += 1
        taken = data[: self.size - len(self.fifo)]
        self.fifo += taken
        return len(taken)

    def guest_reads(self):
        data = bytes(self.fifo)
        self.fifo.clear()
        self.on_room()
        return data


@pytest.fixture
def loop():
    errors = []
    with EventLoop(errors.append) as made:
        made.start()
        yield made
    assert errors == []


@pytest.fixture
def console(loop):
    """A function that connects a descriptor with a port."""

    def connect(fd, port, **options):
        made = ConsoleInput(loop, fd, port.receive, **options)
        port.on_room = made.on_room
        made.start()
        return made

    return connect


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def settle():
    """Give the loop the time to do something wrong."""
    time.sleep(0.03)


def test_input_arrives(console, pipe):
    """What is written to the descriptor arrives in the port."""
    port = Port(16)
    console(pipe[0], port)
    os.write(pipe[1], b"hello")
    wait_for(lambda: port.fifo == b"hello")


def test_nothing_is_read_without_room(console, pipe):
    """While the port is full the descriptor is left alone, and nothing is lost or spun on."""
    port = Port(4)
    console(pipe[0], port)
    os.write(pipe[1], bytes(range(200)))
    wait_for(lambda: len(port.fifo) == 4)
    settle()
    assert port.offered == 1
    received = b""
    while len(received) < 200:
        wait_for(lambda: port.fifo)
        received += port.guest_reads()
    assert received == bytes(range(200))


def test_end_of_input_does_not_spin(console, pipe):
    """After the end of a pipe nothing is called again."""
    port = Port(16)
    made = console(pipe[0], port)
    os.write(pipe[1], b"x")
    os.close(pipe[1])
    wait_for(lambda: made.ended)
    assert port.fifo == b"x"
    before = time.thread_time(), time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before[1] < 0.05


@pytest.mark.parametrize("size", [0, 1, 64, 65, 1000])
def test_regular_file_is_read_to_its_end(console, tmp_path, size):
    """A file, which epoll cannot wait for, is read at the guest's pace all the same."""
    content = bytes(i % 251 for i in range(size))
    path = tmp_path / "input"
    path.write_bytes(content)
    port = Port(7)
    received = b""
    with path.open("rb") as file:
        made = console(file.fileno(), port)
        while len(received) < size:
            wait_for(lambda: port.fifo)
            received += port.guest_reads()
        wait_for(lambda: made.ended)
    assert received == content


def test_dev_null_is_an_end(console):
    """/dev/null as input ends at once."""
    with open(os.devnull, "rb") as file:  # noqa: PTH123  # a device, not a path
        made = console(file.fileno(), Port(1))
        wait_for(lambda: made.ended)


def test_leaving(console, pipe):
    """Ctrl-A x tells the owner, and what follows it is not the guest's."""
    port, left = Port(16), threading.Event()
    console(pipe[0], port, escape=EscapeFilter(), on_leave=left.set)
    os.write(pipe[1], b"ab\x01")
    wait_for(lambda: port.fifo == b"ab")
    os.write(pipe[1], b"xcd")
    assert left.wait(10)
    settle()
    assert port.fifo == b"ab"


def test_binary_input_is_not_escaped(console, pipe):
    """Without a terminal Ctrl-A is a byte like any other."""
    port = Port(16)
    console(pipe[0], port)
    os.write(pipe[1], b"\x01x")
    wait_for(lambda: port.fifo == b"\x01x")


def without_escapes(data):
    """What a guest gets of keys, said in another way than the filter does."""
    out, keys = bytearray(), iter(data)
    for key in keys:
        if key != 1:
            out.append(key)
            continue
        following = next(keys, None)
        if following in (ord("x"), ord("X")):
            return bytes(out), True
        if following is not None:
            out += b"\x01" if following == 1 else bytes((1, following))
    return bytes(out), False


@given(st.lists(st.binary(max_size=4).map(lambda b: b.replace(b"\x02", b"\x01")), max_size=20))
def test_escape_filter_does_not_care_where_reads_end(chunks):
    """The filter's result depends on the keys alone and not on how they are cut into reads."""
    keys = EscapeFilter()
    out, left = b"", False
    for chunk in chunks:
        piece, left = keys.feed(chunk)
        out += piece
        if left:
            break
    assert (out, left) == without_escapes(b"".join(chunks))


def test_writer_writes_everything(pipe):
    """A write that takes only a part is continued, on a non-blocking descriptor too."""
    os.set_blocking(pipe[1], False)
    data = os.urandom(300_000)
    received = bytearray()

    def drain():
        while len(received) < len(data):
            received.extend(os.read(pipe[0], 4096))

    reader = threading.Thread(target=drain)
    reader.start()
    FdWriter(pipe[1], pytest.fail)(data)
    reader.join(10)
    assert received == data


def test_writer_tells_once_that_nobody_reads(pipe):
    """A closed pipe is reported once; later output is dropped without a word."""
    os.close(pipe[0])
    reported = []
    writer = FdWriter(pipe[1], lambda error: reported.append(error.errno))
    writer(b"x")
    writer(b"y")
    assert reported == [errno.EPIPE]
