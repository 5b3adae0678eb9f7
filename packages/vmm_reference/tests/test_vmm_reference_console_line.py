"""The virtio console between its driver and what `--console` says of the host."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from pathlib import Path

import pytest

from virtio_devices import ConsoleFeature, MmioTransport
from virtio_devices.testing import InterruptCounter, MmioDriver, SplitDriver
from vm_memory import GuestMemory
from vmm_reference import (
    ConsoleConfig,
    ConsoleMode,
    EndKind,
    HostError,
    HostIo,
    InputFileError,
    PayloadConfig,
    UsageError,
    VmConfig,
    VmStateError,
)
from vmm_reference.console_line import ConsoleLine
from vmm_reference.event_loop import EventLoop
from vmm_reference.pseudo_terminal import PseudoTerminal
from vmm_reference.terminal import Size
from vmm_reference.virtio.worker import VirtioWorker

TTY = ConsoleConfig(ConsoleMode.TTY)
TIMEOUT = 10


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Guest:
    """A driver of the console of one `ConsoleLine`, on loops as a machine has them."""

    def __init__(self, line, loop, memory):
        self.line = line
        worker = VirtioWorker(line.device, loop)
        self.interrupt = InterruptCounter()
        self.transport = MmioTransport(line.device, memory, self.interrupt, kick=worker.kick)
        worker.start(self.transport.process_queue)
        self.worker = worker
        self.driver = MmioDriver(self.transport)
        self.driver.negotiate(ConsoleFeature.SIZE)
        self.queues = [
            SplitDriver(memory, 0x1000 + index * 0x20000, 16, span=0x20000) for index in range(2)
        ]
        for index, queue in enumerate(self.queues):
            self.driver.add_queue(index, queue)
        self.driver.start()
        worker.look_again()

    def write(self, data):
        """Write a buffer and wait until it has come back."""
        self.queues[1].add([data])
        self.driver.notify(1)
        wait_for(self.queues[1].collect)

    def read(self, size):
        """Give buffers until `size` bytes have arrived."""
        data = b""
        while len(data) < size:
            self.queues[0].add([], [4096])
            self.driver.notify(0)
            used = []
            wait_for(lambda used=used: used.extend(self.queues[0].collect()) or used)
            data += b"".join(each.data for each in used)
        return data


@pytest.fixture
def ended():
    """Ends of the machine."""
    return []


@pytest.fixture
def loops():
    """The machine's loop and the device's."""
    errors = []
    with EventLoop(errors.append) as loop, EventLoop(errors.append, "console") as device_loop:
        yield loop, device_loop
    assert errors == []


@pytest.fixture
def line(loops, ended):
    """A function that makes the host's side of a console."""
    made = []

    def make(console, *, exec_command=None, **io):
        io = HostIo(**{"stdin": None, **io})
        config = VmConfig(console=console, payload=PayloadConfig(exec_command=exec_command))
        made.append(ConsoleLine(config, io, loops[0], ended.append))
        return made[-1]

    yield make
    for loop in loops:
        loop.stop()
    for each in made:
        each.close()
        each.close()


@pytest.fixture
def guest(line, loops):
    """A function that makes a started console with a driver."""
    memory = GuestMemory.from_ranges([(0, 0x50000)])
    guests = []

    def make(console, **options):
        made = Guest(line(console, **options), loops[1], memory)
        guests.append(made)
        for loop in loops:
            loop.start()
        made.line.start()
        return made

    yield make
    for loop in loops:
        loop.stop()
    for each in guests:
        each.transport.reset()
        each.worker.close()
    memory.close()


def read_now(fd):
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


# tty


def test_stdin_and_stdout_are_the_guests(guest, pipe):
    """What comes in arrives at the guest, what it writes goes out, and both are complete."""
    reader, writer = pipe
    out, into = os.pipe()
    console = guest(TTY, stdin=reader, stdout=into)
    os.write(writer, b"ls\x01\n")
    assert console.read(4) == b"ls\x01\n"
    console.write(b"bin\n")
    assert os.read(out, 100) == b"bin\n"
    os.close(out)
    os.close(into)


def test_a_long_input_waits_outside(guest, tmp_path):
    """More than the pipe holds, from a file that epoll cannot wait for; nothing is lost."""
    path = tmp_path / "input"
    content = os.urandom(300_000)
    path.write_bytes(content)
    with path.open("rb") as file:
        console = guest(TTY, stdin=file.fileno())
        assert console.read(len(content)) == content


def test_ctrl_a_x_ends_the_machine(guest, pipe, ended):
    """On a terminal our own keys are taken out."""
    console = guest(TTY, stdin=pipe[0], interactive=True)
    os.write(pipe[1], b"a\x01\x01b")
    assert console.read(3) == b"a\x01b"
    os.write(pipe[1], b"\x01x")
    wait_for(lambda: ended)
    assert [end.kind for end in ended] == [EndKind.STOPPED]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EBADF], ids=errno.errorcode.get)
def test_lost_output_ends_the_machine(guest, ended, number):
    """As a program ends that writes to a closed pipe, or with what the host says."""
    reader, writer = os.pipe()
    os.close(reader)
    if number == errno.EBADF:
        os.dup2(os.open(os.devnull, os.O_RDONLY), writer)
    console = guest(TTY, stdout=writer)
    console.write(b"x")
    console.write(b"y")
    os.close(writer)
    (end,) = ended
    if number == errno.EPIPE:
        assert end.code == 141
    else:
        assert (end.kind, end.code) == (EndKind.ERROR, 1)
        assert "cannot write to stdout" in str(end)


def test_output_that_is_closed_from_the_start_is_the_hosts(guest):
    """One sentence, as for anything that the host does not have."""
    with pytest.raises(HostError, match="console: bad file descriptor"):
        guest(TTY, stdout=1 << 20)


def test_with_a_command_stdout_is_the_commands(guest, pipe):
    """What the console says goes to stderr, and nothing is read from stdin."""
    console = guest(TTY, exec_command="true", stdin=0, stdout=-1, stderr=pipe[1])
    console.write(b"kernel message\n")
    assert read_now(pipe[0]) == b"kernel message\n"


def test_a_script_types_and_reads(guest):
    """By a function for output and `type_in`, which takes what there is room for."""
    said = []
    console = guest(TTY, virtio_console=said.append)
    assert console.line.type_in(b"hello") == 5
    assert console.read(5) == b"hello"
    console.write(b"world")
    assert b"".join(said) == b"world"
    taken = console.line.type_in(bytes(100_000))
    assert 0 < taken < 100_000
    assert console.line.type_in(b"x") == 0
    assert console.read(taken) == bytes(taken)


# Other places


def test_null_drops(guest):
    """There is a console, and nobody at its other end."""
    console = guest(ConsoleConfig(ConsoleMode.NULL))
    console.write(b"x" * 1000)
    with pytest.raises(VmStateError, match="nothing can be typed"):
        console.line.type_in(b"x")


def test_file_gets_everything(guest, tmp_path, caplog):
    """A file is emptied first; a disk that is full is said, and the guest goes on."""
    path = tmp_path / "log"
    path.write_bytes(b"old")
    console = guest(ConsoleConfig(ConsoleMode.FILE, path))
    console.write(b"x" * 10_000)
    assert path.read_bytes() == b"x" * 10_000
    assert caplog.messages == []


def test_a_full_disk_is_said_once(guest, caplog):
    """And the guest goes on."""
    console = guest(ConsoleConfig(ConsoleMode.FILE, Path("/dev/full")))
    for _ in range(3):
        console.write(b"x" * 10_000)
    (message,) = caplog.messages
    assert message == "output of the console to /dev/full is lost: no space left on device"


@pytest.mark.parametrize("path", ["/no/such/folder/x", "/"])
def test_unwritable_file(line, path):
    """Found before the guest runs."""
    with pytest.raises(InputFileError, match=f"--console {path} cannot be written"):
        line(ConsoleConfig(ConsoleMode.FILE, Path(path)))


# pty


def attach(console):
    return os.open(console.line.path, os.O_RDWR | os.O_NOCTTY)


def receive(fd, *, until):
    data = b""
    while not data.endswith(until):
        assert select.select([fd], [], [], TIMEOUT)[0], data[-100:]
        data += os.read(fd, 4096)
    return data


def test_pty_with_and_without_a_reader(guest):
    """Nobody there: the guest goes on. Attached, gone, attached again: bytes both ways."""
    console = guest(ConsoleConfig(ConsoleMode.PTY))
    for number in range(3):
        for _ in range(20):
            console.write(b"." * 10_000)
        fd = attach(console)
        receive(fd, until=b".")  # what fits into a terminal that nobody reads
        prompt = b"login %d: " % number
        while select.select([fd], [], [], 0.05)[0]:
            os.read(fd, 4096)
        console.write(prompt)
        assert receive(fd, until=prompt) == prompt
        os.write(fd, b"root\n")
        assert console.read(5) == b"root\n"
        os.close(fd)


def test_a_slow_reader_of_a_pty_gets_everything(guest):
    """The guest's buffer waits for it, and comes back when the reader has left instead."""
    console = guest(ConsoleConfig(ConsoleMode.PTY))
    fd = attach(console)
    content = os.urandom(60_000)
    console.queues[1].add([content])
    console.driver.notify(1)
    time.sleep(0.05)
    assert console.queues[1].collect() == []
    assert receive(fd, until=content[-20:]) == content
    wait_for(console.queues[1].collect)
    console.queues[1].add([content])
    console.driver.notify(1)
    time.sleep(0.05)
    os.close(fd)
    wait_for(console.queues[1].collect)


def test_what_somebody_left_is_read(guest):
    """Who attaches, writes and leaves at once is heard."""
    console = guest(ConsoleConfig(ConsoleMode.PTY))
    for _ in range(3):
        fd = attach(console)
        os.write(fd, b"reboot\n")
        os.close(fd)
        assert console.read(7) == b"reboot\n"


def test_nobody_at_a_pty_costs_nothing(guest):
    """No turning in circles while nobody is there, nor while somebody is idle."""
    console = guest(ConsoleConfig(ConsoleMode.PTY))
    for fd in (None, attach(console)):
        time.sleep(0.25)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.1
        if fd is not None:
            os.close(fd)


def test_a_pty_is_raw(loops):
    """What the guest writes does not come back to it."""
    terminal = PseudoTerminal(loops[0], lambda: None)
    fd = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
    os.write(terminal.fileno(), b"\x03\r\n\x04")
    assert os.read(fd, 10) == b"\x03\r\n\x04"
    with pytest.raises(BlockingIOError):
        os.read(terminal.fileno(), 10)
    os.close(fd)
    terminal.close()
    terminal.close()


# Size


def test_size(guest):
    """The terminal's at first, later what is said; none that no terminal has."""
    console = guest(TTY, size=Size(33, 101))
    assert console.driver.read_config(0, 4) == bytes((101, 0, 33, 0))
    console.driver.acknowledge()
    console.line.resize(132, 50)
    wait_for(lambda: console.driver.read_config(0, 4) == bytes((132, 0, 50, 0)))
    wait_for(lambda: console.driver.acknowledge() == 2)
    with pytest.raises(UsageError, match="65536 columns and 20 rows"):
        console.line.resize(65536, 20)


def test_resizes_from_many_threads(guest):
    """The last one counts, whoever it comes from."""
    console = guest(TTY)
    threads = [
        threading.Thread(target=lambda: [console.line.resize(n, n) for n in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    console.line.resize(7, 8)
    wait_for(lambda: console.driver.read_config(0, 4) == bytes((7, 0, 8, 0)))


def test_a_resize_after_the_end_is_harmless(line):
    """A signal's handler may be late."""
    made = line(TTY)
    made.close()
    made.resize(80, 25)
    with pytest.raises(VmStateError):
        made.type_in(b"x")
