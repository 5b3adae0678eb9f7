"""The console device between its driver and descriptors of the host."""

from __future__ import annotations

import errno
import os
import pty
import select
import socket
import struct
import threading
import tty
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virtio_devices import Console, ConsoleFeature, ConsolePort, SplitQueue, VirtioUsageError
from virtio_devices.console.control import ControlMessages, Event
from virtio_devices.console.transmit import BUDGET
from virtio_devices.testing import SplitDriver

SIZE, MULTIPORT, EMERG_WRITE = ConsoleFeature
EMERG_WR = 0x108
DEVICE_READY, DEVICE_ADD, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
)


def message(port, event, value=0, more=b""):
    return struct.pack("<IHH", port, event, value) + more


def read_all(fd):
    """What a non-blocking descriptor has now."""
    data = b""
    try:
        while piece := os.read(fd, 1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data


# Before any byte


def test_identity(terminal):
    """Device 3, two queues, a size, one port; MULTIPORT is not offered without need."""
    term = terminal(ConsolePort(), size=(132, 43))
    assert term.driver.read(0x008) == 3
    assert term.device.queue_sizes == (64, 64)
    assert term.device.features == SIZE | EMERG_WRITE
    assert struct.unpack("<HHII", term.driver.read_config(0, 12)) == (132, 43, 1, 0)


@pytest.mark.parametrize(
    ("names", "queues"), [(["agent"], 4), (["", ""], 6), (["", "agent", "more"], 8)]
)
def test_several_ports_or_a_name_need_multiport(names, queues):
    """Two queues more for control, and two for each port."""
    with Console(*(ConsolePort(name=name) for name in names)) as console:
        assert console.features & MULTIPORT
        assert len(console.queue_sizes) == queues
        assert console.config[4:8] == len(names).to_bytes(4, "little")


def test_mistakes_of_the_caller_are_errors(terminal):
    """One sentence with the value in it."""
    with pytest.raises(VirtioUsageError, match="needs a port"):
        Console()
    with pytest.raises(VirtioUsageError, match="65536 columns and 25 rows"):
        Console(ConsolePort(), size=(65536, 25))
    with pytest.raises(VirtioUsageError, match="80 columns and -1 rows"):
        terminal(ConsolePort()).device.resize(80, -1)


def test_a_device_that_nobody_closes_warns():
    """It has a descriptor of its own; closing twice is once."""
    with Console(ConsolePort()) as console:
        assert "1 ports" in repr(console)
    console.close()
    forgotten = Console(ConsolePort())
    with pytest.warns(ResourceWarning, match="unclosed <Console"):
        forgotten.__del__()


# From the guest


def test_output_may_be_a_function_a_descriptor_or_nowhere(terminal, pipe, tmp_path):
    """Each takes everything, however the driver divides it."""
    said = []
    reader, writer = pipe()
    with (tmp_path / "log").open("wb") as log:
        for output in (said.append, writer, log.fileno(), None):
            term = terminal(ConsolePort(output))
            term.write(b"login", b"", b": ", b"\x80")
            term.write(b"x" * 9000)
            assert len(term.queues[1].collect()) == 2
    expected = b"login: \x80" + b"x" * 9000
    assert b"".join(said) == expected
    assert max(map(len, said)) <= 4096
    assert read_all(reader) == expected
    assert (tmp_path / "log").read_bytes() == expected


@pytest.mark.parametrize("blocking", [False, True])
def test_a_slow_host_loses_nothing(terminal, pipe, blocking):
    """What it does not take stays in the guest; the device says whom to wait for, and goes on."""
    reader, writer = pipe(blocking=blocking)
    os.set_blocking(reader, False)
    term = terminal(ConsolePort(writer))
    pieces = [bytes([number]) * 50_000 for number in range(6)]
    received, waits = b"", set()
    for piece in [*pieces, b""]:
        while len(term.queues[1].in_flight) > (1 if piece else 0):
            waits |= {fd for fd, queue in term.device.readiness.items() if queue == 1}
            term.machine.poll()  # nothing happens while the pipe is full
            received += os.read(reader, 20_000)
            term.machine.poll()
            term.queues[1].collect()
        if piece:
            term.write(piece)
    received += read_all(reader)
    assert received == b"".join(pieces)
    assert len(waits) == 1
    assert waits.isdisjoint({reader, writer, *term.device.readiness})


def test_a_buffer_comes_back_when_all_of_it_is_written(terminal, pipe):
    """Not before, so the guest does not overtake the host."""
    reader, writer = pipe()
    term = terminal(ConsolePort(writer))
    term.write(b"x" * 0x18000)
    assert term.queues[1].collect() == []
    assert len(read_all(reader)) == 0x10000
    term.machine.poll(5)
    assert len(term.queues[1].collect()) == 1
    assert len(read_all(reader)) == 0x8000


def test_a_host_that_hung_up_does_not_stop_the_guest(terminal, pipe):
    """What it wrote is lost, and counted."""
    reader, writer = pipe()
    port = ConsolePort(writer)
    term = terminal(port)
    os.close(reader)
    term.write(b"x" * 5000)
    assert len(term.queues[1].collect()) == 1
    assert port.lost == 5000
    os.close(writer)
    term.write(b"y")
    assert port.lost == 5001


def test_the_host_says_why_it_lost_bytes(terminal, pipe):
    """Once, and again after it has worked in between; the emergency write's failure as well."""
    reader, writer = pipe()
    said = []
    term = terminal(ConsolePort(writer, on_error=lambda error: said.append(error.errno)))
    os.close(reader)
    term.write(b"x")
    term.write(b"y")
    assert said == [errno.EPIPE]
    reader = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY)
    term.write(b"z")
    assert said == [errno.EPIPE]
    os.close(reader)
    term.driver.write(EMERG_WR, ord("!"), 1)
    term.write(b"x")
    assert said == [errno.EPIPE] * 2


def test_a_console_has_its_files_until_it_is_closed(terminal, pipe, tmp_path):
    """Their maker may close them: no byte goes into, or comes from, a file with their numbers."""
    (reader, writer), (source, typed) = pipe(), pipe()
    term = terminal(ConsolePort(writer, source))
    with (tmp_path / "other").open("w+b", buffering=0) as other:
        os.write(other.fileno(), b"secret")
        os.dup2(other.fileno(), writer)
        os.dup2(other.fileno(), source)
        term.write(b"guest")
        term.driver.write(EMERG_WR, ord("!"), 1)
        os.write(typed, b"typed")
        term.post(100)
        assert term.arrived() == [b"typed"]
        assert read_all(reader) == b"guest!"
        assert (tmp_path / "other").read_bytes() == b"secret"
    term.device.close()
    assert os.read(reader, 1) == b""
    with pytest.raises(BrokenPipeError):
        os.write(typed, b"nobody")


def test_what_a_port_waits_for_outlives_a_reset(terminal, pipe):
    """A loop may hear of the reset late: nothing that it waits for becomes something else."""
    _reader, writer = pipe()
    term = terminal(ConsolePort(writer))
    term.write(b"x" * 0x18000)
    waits = {fd for fd, queue in term.device.readiness.items() if queue == 1}
    term.driver.write(0x070, 0)
    spare = os.dup(writer)
    os.close(spare)
    assert spare not in waits
    assert len(waits) == 1
    assert not select.select(list(waits), [], [], 0)[0]


def test_ports_may_have_two_devices_one_after_another(pipe):
    """Each has the files as long as it lives; a number that is not open makes no device."""
    reader, writer = pipe()
    port = ConsolePort(writer)
    with Console(port), Console(port):
        os.close(writer)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    assert os.read(reader, 1) == b""
    with pytest.raises(OSError, match="descriptor"):
        Console(ConsolePort(), port)


def test_one_call_writes_a_bounded_amount(terminal):
    """A guest may offer 4 GiB in one buffer; other devices have their turn in between."""
    sizes = []
    term = terminal(ConsolePort(lambda data: sizes.append(len(data))))
    for index in range(16):
        term.queues[1].write_descriptor(
            index, 0x100000, 0x100000, 1 if index < 15 else 0, index + 1
        )
    term.queues[1].offer(0)
    assert term.machine.transport.process_queue(1)
    assert sum(sizes) <= BUDGET * 4096
    assert max(sizes) == 4096


class Sip:
    """An output that takes so many bytes at a time."""

    lost = 0

    def __init__(self, sizes):
        self.sizes = sizes
        self.taken = b""

    def open(self):
        """Nothing has to be opened."""

    def close(self):
        """Nor closed."""

    def write(self, memory, spans):
        piece = b"".join(memory.read(*span) for span in spans)
        piece = piece[: self.sizes[len(self.taken) % len(self.sizes)]]
        self.taken += piece
        return len(piece)


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes a new device each time
)
@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=12),
    st.lists(st.integers(1, 60), min_size=1),
)
def test_a_host_may_take_any_part(terminal, pieces, sizes):
    """What it has not taken is written next, wherever the guest's pieces begin and end."""
    port = ConsolePort()
    sip = port._output = Sip(sizes)
    term = terminal(port)
    term.write(*pieces)
    for _ in range(10):
        term.kick(1)
    assert sip.taken == b"".join(pieces)
    assert len(term.queues[1].collect()) == 1


# To the guest


def test_input_fills_the_guests_buffers(terminal, pipe):
    """As it comes: a buffer is given back with what there was."""
    reader, writer = pipe()
    term = terminal(ConsolePort(source=reader))
    term.post(3, 0, 100)
    os.write(writer, b"abcde")
    term.machine.poll()
    assert term.arrived() == [b"abc", b"", b"de"]
    assert term.machine.interrupt.count == 1


def test_without_buffers_nothing_is_read(terminal, pipe):
    """And the source is not waited for: whoever types is held up, nothing is lost."""
    reader, writer = pipe()
    term = terminal(ConsolePort(source=reader))
    wake = term.device._wake
    assert len(term.device.readiness) == 2
    os.write(writer, b"x" * 60000)
    term.machine.poll()
    assert term.device.readiness == {wake: 0}
    assert os.write(writer, b"y" * 60000) < 60000
    received = b""
    while len(received) < 60000:
        term.post(*[4096] * 8)
        received += b"".join(term.arrived())
    assert received.startswith(b"x" * 60000)
    assert set(term.device.readiness.values()) == {0}


@pytest.mark.parametrize("end", ["source", "output"])
def test_blocking_descriptors_do_not_block_the_device(terminal, pipe, end):
    """A kick without input, and output without room, return at once."""
    reader, writer = pipe(blocking=True)
    if end == "source":
        term = terminal(ConsolePort(source=reader))
        term.post(100)
        term.machine.transport.process_queue(0)
        assert term.arrived() == []
    else:
        term = terminal(ConsolePort(writer))
        term.write(b"x" * 0x18000)
        assert term.queues[1].collect() == []


def test_a_source_that_ended_is_not_waited_for(terminal, pipe):
    """Until the VMM says that there is one again; the buffer waits as well."""
    reader, writer = pipe()
    term = terminal(ConsolePort(source=reader))
    wake = term.device._wake
    term.post(100)
    os.close(writer)
    term.machine.poll()
    assert term.device.readiness == {wake: 0}
    assert term.arrived() == []
    writer = os.open(f"/proc/self/fd/{reader}", os.O_WRONLY)
    os.write(writer, b"again")
    term.device.open_port(0)
    term.machine.poll()
    assert term.arrived() == [b"again"]
    assert len(term.device.readiness) == 2
    os.close(writer)


def test_a_pseudo_terminal_works_in_both_directions(terminal):
    """One descriptor as output and source; a side that hangs up may come back."""
    master, slave = pty.openpty()
    try:
        name = os.ttyname(slave)
        tty.setraw(slave)
        os.set_blocking(master, False)
        term = terminal(ConsolePort(master, master))
        term.post(100)
        term.write(b"login: ")
        assert os.read(slave, 100) == b"login: "
        os.write(slave, b"root")
        term.machine.poll(5)
        assert term.arrived() == [b"root"]
        os.close(slave)
        term.post(100)
        assert term.device.readiness == {term.device._wake: 0}
        slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
        os.write(slave, b"back")
        term.device.open_port(0)
        term.machine.poll(5)
        assert term.arrived() == [b"back"]
    finally:
        os.close(slave)
        os.close(master)


@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
def test_a_terminal_that_nobody_looks_at_does_not_block_the_device(terminal, raw):
    """In blocking mode, which stays as it is, with newlines that need more room than they take."""
    master, slave = pty.openpty()
    try:
        if raw:
            tty.setraw(slave)
        term = terminal(ConsolePort(slave))
        for index in range(16):
            term.queues[1].add([(b"x" * (1000 + index) + b"\n") * 8])
        term.kick(1)
        assert len(term.queues[1].collect()) < 16
        assert 1 in term.device.readiness.values()
        assert os.get_blocking(slave)
        os.set_blocking(master, False)
        assert read_all(master)
        term.driver.write(0x070, 0)
    finally:
        os.close(slave)
        os.close(master)


def test_a_terminal_that_cannot_be_opened_again_is_duplicated(terminal, monkeypatch):
    """It is another user's, for one."""
    master, slave = pty.openpty()
    try:
        tty.setraw(slave)
        monkeypatch.setattr(os, "open", refuse)
        term = terminal(ConsolePort(slave))
        monkeypatch.undo()
        term.write(b"seen")
        assert os.read(master, 100) == b"seen"
    finally:
        os.close(slave)
        os.close(master)


def refuse(*_args):
    raise PermissionError(errno.EACCES, "not yours")


def test_a_pseudo_terminal_that_nobody_has_open_does_not_hold_the_guest(terminal):
    """What does not fit into it is lost, also if somebody was there and left in the middle."""
    master, slave = pty.openpty()
    try:
        tty.setraw(slave)
        os.set_blocking(master, False)
        port = ConsolePort(master)
        term = terminal(port)
        term.write(b"x" * 0x10000)
        assert term.queues[1].collect() == []
        name = os.ttyname(slave)
        os.close(slave)
        term.machine.poll(5)
        assert len(term.queues[1].collect()) == 1
        term.write(b"y" * 0x10000)
        assert len(term.queues[1].collect()) == 1
        assert term.device.readiness.keys() == {term.device._wake}
        assert port.lost > 0x10000
        term.driver.write(EMERG_WR, ord("!"), 1)
        term.write(b"z")
        assert len(term.queues[1].collect()) == 1
        slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
        while select.select([slave], [], [], 0.2)[0]:
            os.read(slave, 4096)
        term.write(b"prompt")
        assert os.read(slave, 4096) == b"prompt"
    finally:
        os.close(master)
        with suppress(OSError):
            os.close(slave)


# Size and emergencies


def test_a_resize_is_a_change_of_the_configuration(terminal):
    """Signalled if the driver negotiated SIZE (§5.3.5)."""
    term = terminal(ConsolePort())
    term.device.resize(100, 30)
    assert term.driver.read_config(0, 4) == struct.pack("<HH", 100, 30)
    assert term.driver.acknowledge() == 2
    without = terminal(ConsolePort(), features=0)
    without.device.resize(100, 30)
    assert without.driver.acknowledge() == 0


def test_the_first_size_is_told_as_a_change(terminal):
    """Linux reads it then and not before; a size that nobody knows is not told."""
    assert terminal(ConsolePort(), size=(132, 43)).driver.acknowledge() == 2
    assert terminal(ConsolePort(), size=(132, 43), features=0).driver.acknowledge() == 0
    assert terminal(ConsolePort()).driver.acknowledge() == 0


def test_an_emergency_write_needs_no_queue(machine):
    """One character, by the configuration space, before anything else (§5.3.5.1)."""
    said = []
    with Console(ConsolePort(said.append)) as console:
        driver = machine(console).driver
        for character in b"oops":
            driver.write(EMERG_WR, character)
        driver.write(EMERG_WR, ord("!"), 1)
        driver.write(EMERG_WR + 1, 0x5A, 1)
        driver.write(0x100, 0x5A5A)
        assert b"".join(said) == b"oops!"
    with Console(ConsolePort()) as console:
        machine(console).driver.write(EMERG_WR, 1)


def test_an_emergency_write_waits_for_a_slow_host(terminal, pipe):
    """In its place before what is written later; what exceeds the room for it is counted."""
    reader, writer = pipe()
    port = ConsolePort(writer)
    term = terminal(port)
    filled = 0x10000
    term.write(b"-" * filled)
    for character in b"help" + b"z" * 5000:
        term.driver.write(EMERG_WR, character)
    term.write(b"later")
    assert port.lost == 5004 - 4096
    received = read_all(reader)
    term.machine.poll(5)
    received += read_all(reader)
    assert received == b"-" * filled + b"help" + b"z" * 4092 + b"later"
    os.close(reader)
    term.driver.write(EMERG_WR, 1)
    assert port.lost == 5004 - 4096 + 1


# Several ports


@pytest.fixture
def ports(terminal, pipe):
    """A terminal, and a stream with a name, after the driver has said that it is ready."""

    def make(**options):
        reader, writer = pipe()
        source, typed = pipe()
        named = ConsolePort(writer, source, name="org.example.agent", is_console=False)
        term = terminal(ConsolePort(), named, **options)
        term.reader, term.typed, term.named = reader, typed, named
        return term

    return make


def test_a_driver_gets_to_know_its_ports(ports):
    """It asks, and is told what each of them is (§5.3.6.2)."""
    term = ports(size=(80, 25))
    term.post(*[100] * 12, queue=2)
    term.write(message(0xFFFF_FFFF, DEVICE_READY, 1), queue=3)
    assert term.arrived(2) == [message(0, DEVICE_ADD), message(1, DEVICE_ADD)]
    assert term.machine.interrupt.count == 2
    term.write(message(0, PORT_READY, 1), queue=3)
    assert term.arrived(2) == [
        message(0, CONSOLE_PORT, 1),
        message(0, PORT_OPEN, 1),
        message(0, RESIZE, 0, struct.pack("<HH", 80, 25)),
    ]
    term.write(message(1, PORT_READY, 1), queue=3)
    assert term.arrived(2) == [
        message(1, PORT_NAME, 0, b"org.example.agent"),
        message(1, PORT_OPEN, 1),
    ]


def test_a_stream_gets_bytes_when_the_guest_has_opened_it(ports):
    """A terminal is read always."""
    term = ports()
    os.write(term.typed, b"hello")
    term.post(10, queue=4)
    assert not term.device.is_guest_open(1)
    assert term.device.is_guest_open(0)
    assert 4 not in term.device.readiness.values()
    term.write(message(1, PORT_OPEN, 1), queue=3)
    term.machine.poll()
    assert term.device.is_guest_open(1)
    assert term.arrived(4) == [b"hello"]
    term.write(message(1, PORT_OPEN, 0), queue=3)
    os.write(term.typed, b"more")
    term.post(10, queue=4)
    assert term.arrived(4) == []
    term.write(b"from the guest", queue=5)
    assert read_all(term.reader) == b"from the guest"


def test_the_hosts_end_may_close_and_open(ports):
    """The driver is told; what it writes meanwhile is lost and counted."""
    term = ports()
    term.write(message(1, PORT_OPEN, 1), queue=3)
    term.device.close_port(1)
    assert 4 not in term.device.readiness.values()
    term.machine.poll()
    term.post(100, 100, queue=2)
    assert term.arrived(2) == [message(1, PORT_OPEN, 0)]
    term.write(b"nobody", queue=5)
    assert (term.named.lost, read_all(term.reader)) == (6, b"")
    term.device.open_port(1)
    assert term.device._wake in term.device.readiness
    term.machine.poll(5)
    assert term.arrived(2) == [message(1, PORT_OPEN, 1)]
    assert 4 in term.device.readiness.values()
    term.machine.poll()
    assert not term.machine.transport.process_queue(2)


def test_a_closed_port_loses_also_what_waited(ports):
    """A host that went while it was slow never reads it."""
    term = ports()
    term.write(b"x" * 0x18000, queue=5)
    assert term.queues[5].collect() == []
    term.device.close_port(1)
    term.machine.poll()  # no kick: Linux spins until its buffer comes back
    assert len(term.queues[5].collect()) == 1
    assert term.named.lost == 0x8000


def test_a_terminal_that_is_closed_while_it_is_slow(terminal, pipe):
    """The same without the messages about ports, and the driver is interrupted."""
    _reader, writer = pipe()
    port = ConsolePort(writer)
    term = terminal(port)
    term.write(b"x" * 0x18000)
    assert term.queues[1].collect() == []
    interrupts = term.machine.interrupt.count
    term.device.close_port(0)
    term.machine.poll()
    assert len(term.queues[1].collect()) == 1
    assert term.machine.interrupt.count == interrupts + 1
    assert port.lost == 0x8000


def test_a_resize_of_a_port_is_a_message(ports):
    """Columns, then rows; the last one counts if the driver was slow."""
    term = ports()
    term.device.resize(100, 30)
    term.device.resize(120, 40)
    term.post(100, 100, queue=2)
    assert term.arrived(2) == [message(0, RESIZE, 0, struct.pack("<HH", 120, 40))]
    assert term.driver.read_config(0, 4) == struct.pack("<HH", 120, 40)


def test_a_driver_without_multiport_sees_port_0_alone(ports):
    """Under the numbers of a plain console; queues that it sets up beyond them stay unused."""
    term = ports(features=SIZE, more_queues=True)
    os.write(term.typed, b"never read")
    for queue in (2, 4):
        term.post(100, queue=queue)
    for queue in (3, 5):
        term.write(message(0, DEVICE_READY, 1), queue=queue)
    assert [len(queue.in_flight) for queue in term.queues] == [0, 0, 1, 1, 1, 1]
    term.device.resize(90, 20)
    assert term.driver.acknowledge() == 2
    term.write(b"gone")
    assert not any(term.machine.transport.process_queue(index) for index in range(2, 6))


def test_messages_that_nobody_takes_are_few(ports):
    """A driver asks ten thousand times and gives no buffers: the host remembers states."""
    term = ports()
    for _ in range(1000):
        for data in (message(0, DEVICE_READY, 1), message(0, PORT_READY, 1)):
            term.write(data, message(1, PORT_READY, 1), queue=3)
            assert len(term.queues[3].collect()) == 1
    assert len(term.device._messages._waiting) <= 2 * 7
    term.post(*[100] * 8, queue=2)
    assert len(term.arrived(2)) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        message(2, PORT_READY, 1),
        message(0xFFFF_FFFF, PORT_OPEN, 1),
        message(0, PORT_READY, 0),
        message(0, DEVICE_READY, 0),
        message(0, 99, 1),
    ],
)
def test_messages_without_meaning_are_ignored(ports, data):
    """They come back, and nothing follows from them."""
    term = ports()
    term.post(100, queue=2)
    term.write(data, queue=3)
    assert len(term.queues[3].collect()) == 1
    assert term.arrived(2) == []


def test_control_buffers_that_are_too_small_come_back_empty(ports):
    """The message waits for one that is large enough, also if a whole ring was too small."""
    term = ports(queue_size=2)
    term.post(7, 0, queue=2)
    term.device.close_port(0)
    term.machine.poll()
    assert term.arrived(2) == [b"", b""]
    term.post(8, queue=2)
    assert term.arrived(2) == [message(0, PORT_OPEN, 0)]


def test_calls_from_other_threads_wake_the_loop(ports):
    """A resize while the loop sleeps in select reaches the driver."""
    term = ports()
    term.post(100, queue=2)
    caller = threading.Timer(0.05, term.device.resize, (77, 11))
    caller.start()
    term.machine.poll(20)
    caller.join()
    assert term.arrived(2) == [message(0, RESIZE, 0, struct.pack("<HH", 77, 11))]


# Life


def test_a_reset_forgets_the_driver_and_keeps_the_hosts_bytes(terminal, pipe):
    """Input that was not taken is there for the next driver."""
    reader, writer = pipe()
    source, typed = pipe()
    port = ConsolePort(writer, source)
    term = terminal(port)
    os.write(typed, b"early")
    term.write(b"x" * 0x18000)
    term.driver.negotiate()
    assert term.device.readiness == {}
    assert not term.machine.transport.process_queue(1)
    again = terminal(port)
    again.post(100)
    assert again.arrived() == [b"early"]
    read_all(reader)


def test_without_queues_nothing_is_waited_for(machine):
    """Not even for calls from outside, which nobody could answer."""
    with Console(ConsolePort(), ConsolePort(), size=(1, 1)) as console:
        bare = machine(console)
        bare.driver.negotiate(7)
        bare.driver.start()
        console.resize(2, 2)
        console.close_port(1)
        assert console.readiness == {}
        assert not any(console.process_queue(index) for index in range(8))


# Properties


class Streams:
    """What went in at one end and came out at the other, in both directions."""

    def __init__(self):
        self.sent = {"out": b"", "in": b""}
        self.received = {"out": b"", "in": b""}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("guest writes"), st.integers(0, 9000)),
        st.tuples(st.just("host reads"), st.integers(1, 9000)),
        st.tuples(st.just("host writes"), st.integers(1, 9000)),
        st.tuples(st.just("guest posts"), st.integers(0, 3000)),
        st.tuples(st.just("loop"), st.just(0)),
    ),
    max_size=60,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes a new device each time
)
@given(actions)
def test_streams_keep_every_byte_in_order(terminal, steps):
    """Whoever is slow, at whatever step: what comes out is the beginning of what went in."""
    host, device_end = socket.socketpair()
    with host, device_end:
        for end in (host, device_end):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        term = terminal(ConsolePort(device_end.fileno(), device_end.fileno()))
        streams = Streams()
        for number, (action, size) in enumerate(steps):
            take_step(term, host, streams, action, bytes([number]) * size)
        for _ in range(200):
            take_step(term, host, streams, "host reads", b"x" * 65536)
            take_step(term, host, streams, "guest posts", b"x" * 2000)
            take_step(term, host, streams, "loop", b"")
        assert streams.sent == streams.received


def take_step(term, host, streams, action, data):
    if action == "guest writes" and len(term.queues[1].in_flight) < 8:
        term.queues[1].add([data])
        term.driver.notify(1)
        streams.sent["out"] += data
    elif action == "host reads":
        with suppress(BlockingIOError):
            streams.received["out"] += host.recv(len(data))
    elif action == "host writes":
        with suppress(BlockingIOError):
            streams.sent["in"] += data[: host.send(data)]
    elif action == "guest posts" and len(term.queues[0].in_flight) < 8:
        term.queues[0].add(writable=[len(data)])
        term.driver.notify(0)
    elif action == "loop":
        term.machine.poll()
    term.queues[1].collect()
    streams.received["in"] += b"".join(term.arrived())
    assert streams.sent["out"].startswith(streams.received["out"])
    assert streams.sent["in"].startswith(streams.received["in"])


# One queue alone


@pytest.mark.parametrize("index", range(6))
def test_a_queue_can_be_replaced_alone(ports, index):
    """What waited in it is forgotten, the others work on, the new one works (§2.6.1)."""
    term = ports()
    term.write(message(1, PORT_OPEN, 1), queue=3)
    term.queues[3].collect()
    term.write(b"x" * 0x18000, queue=5)
    device, old = term.device, term.queues[index]
    device.reset_queue(index)
    assert index not in device.readiness.values()
    assert not device.process_queue(index)
    memory, base = old._memory, old.layout.descriptor_table
    term.queues[index] = SplitDriver(memory, base, 16, span=0x20000)
    device.restart_queue(index, SplitQueue(memory, term.queues[index].layout))
    read_all(term.reader)
    term.machine.poll()
    read_all(term.reader)
    term.write(b"again", queue=5)
    assert read_all(term.reader) == b"again"
    term.post(10, queue=4)
    os.write(term.typed, b"typed")
    term.machine.poll()
    assert term.arrived(4) == [b"typed"]
    term.post(100, queue=2)
    term.write(message(0, PORT_READY, 1), queue=3)
    assert term.arrived(2) == [message(0, CONSOLE_PORT, 1)]


def test_the_last_word_on_a_matter_comes_last():
    """What is said anew is new: it follows what was said of other matters meanwhile."""
    messages = ControlMessages()
    messages.add(0, Event.PORT_OPEN, 1)
    messages.add(1, Event.PORT_OPEN, 1)
    messages.add(0, Event.PORT_OPEN, 0)
    assert [(port, message[6]) for port, _, message in messages.save()] == [(1, 1), (0, 0)]
