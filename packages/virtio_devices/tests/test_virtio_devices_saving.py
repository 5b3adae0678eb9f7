"""Saving a transport with its device, and going on in new ones over the same memory."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtio_devices import (
    Block,
    BlockState,
    Console,
    ConsolePort,
    DeviceViolation,
    Feature,
    InvalidState,
    MmioTransport,
    Net,
    NetFeature,
    PciTransport,
    QueueState,
    RawImage,
    Rng,
    VirtioUsageError,
)
from virtio_devices.testing import (
    InterruptCounter,
    InterruptPin,
    Loop,
    MmioDriver,
    PciDriver,
    negotiated_queue,
)
from vm_memory import GuestMemory

BASE, SPAN = 0x1000, 0x2000
RINGS = int(Feature.RING_PACKED | Feature.EVENT_IDX | Feature.INDIRECT_DESC | Feature.RING_RESET)
ALL = 2**64 - 1 & ~RINGS


class Numbers:
    """An entropy device whose bytes are counted."""

    def __init__(self):
        self.next = 0

    def make(self):
        return Rng(self._bytes)

    def _bytes(self, size):
        self.next += 1
        return bytes([self.next & 0xFF]) * size

    def request(self, _queue, number):
        return [], [number % 40 + 1]

    def act(self, number):
        pass

    def close(self):
        pass


class Disk:
    """A block device on a file in memory."""

    def __init__(self):
        self._file = os.memfd_create("disk")
        os.truncate(self._file, 1 << 16)
        self._image = RawImage(f"/proc/self/fd/{self._file}")

    def make(self):
        return Block(self._image, serial=b"disk", queues=2)

    def request(self, _queue, number):
        header = struct.pack("<IIQ", number % 3, 0, number % 8)
        return ([header, bytes([number]) * 512], [1]) if number % 3 == 1 else ([header], [512, 1])

    def act(self, number):
        pass

    def close(self):
        self._image.close()
        os.close(self._file)


class Card:
    """A network device on a socket, of which nothing waits for buffers."""

    features = int(NetFeature.CSUM | NetFeature.GUEST_CSUM)

    def __init__(self):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self._ends = [end for pair in pairs for end in pair]
        for end in self._ends:
            end.setblocking(False)
        self.queue_fds = [near.fileno() for near, _far in pairs]
        self.offloads = self.active = None
        self.device = None

    def set_offloads(self, features):
        self.offloads = features

    def set_active_queues(self, count):
        self.active = count

    def make(self):
        self.device = Net(self, mac=bytes((2, 0, 0, 0, 0, 9)))
        return self.device

    def request(self, queue, number):
        if queue == 4:
            data = [(4, 0, 1 + number % 2, 0), (1, 1, 2, 0, 0, 0, 0, number), (5, 0, *[0] * 8)]
            return [bytes(data[number % 3])], [1]
        return ([bytes(12), bytes([number]) * 60], []) if queue % 2 else ([], [100])

    def act(self, number):
        if number % 3:
            self.device.announce()
        else:
            self.device.set_link(up=bool(number & 1))

    def close(self):
        for end in self._ends:
            end.close()


class Terminals:
    """A console device of two ports that loses what it is told."""

    def __init__(self):
        self.made = []

    def make(self):
        ports = (ConsolePort(bytes), ConsolePort(bytes, name="other", is_console=False))
        self.made.append(Console(*ports, size=(80, 25)))
        return self.made[-1]

    def request(self, queue, number):
        if queue == 3:
            return [struct.pack("<IHH", number % 2, (0, 3, 6)[number % 3], 1)], []
        return ([bytes([number])], []) if queue % 2 else ([], [8 + number % 20])

    def act(self, number):
        actions = (
            lambda: self.made[-1].resize(number, 25),
            lambda: self.made[-1].close_port(number & 1),
            lambda: self.made[-1].open_port(number & 1),
        )
        actions[number % 3]()

    def close(self):
        for console in self.made:
            console.close()


class Twin:
    """A device behind a transport, with its driver, that can be replaced by a restored one."""

    def __init__(self, host, pci):
        self.memory = GuestMemory.from_ranges([(0, 0x20000)])
        self.host = host
        self.loop = Loop()
        self.interrupt = InterruptCounter()
        self.vectors = [InterruptCounter() for _ in range(3)]
        self.pin = InterruptPin()
        self.queues = {}
        self.pci = pci
        self.transport = self.make()
        self.driver = PciDriver(self.transport) if pci else MmioDriver(self.transport)

    def make(self):
        device = self.host.make()
        if self.pci:
            return PciTransport(
                device, self.memory, vectors=self.vectors, line=self.pin, kick=self.loop.kick
            )
        return MmioTransport(device, self.memory, self.interrupt, kick=self.loop.kick)

    def replace(self):
        state = self.transport.save()
        self.transport = self.make()
        self.transport.restore(state)
        if self.pci:
            self.driver._function = self.transport
        else:
            self.driver._registers = self.transport
        assert self.transport.save() == state

    def close(self):
        self.transport.reset()
        self.host.close()
        self.memory.close()

    # What a script may do

    def step(self, name, one, two):
        with contextlib.suppress(DeviceViolation, VirtioUsageError, MemoryError):
            getattr(self, name)(one, two)

    def start(self, one, two):
        rings = RINGS & -(one & 1) | (one >> 1 & 15) << 28
        features = self.driver.negotiate(rings & RINGS | ALL & ~(two & 3))
        self.queues.clear()
        for index, _size in enumerate(self.transport.device.queue_sizes):
            self.add_queue(index, features, one)
        if one & 64 == 0:
            self.driver.start()

    def add_queue(self, index, features, one):
        queue = negotiated_queue(self.memory, BASE + SPAN * index, 4, features, span=SPAN)
        if self.pci:
            self.driver.add_queue(index, queue, vector=one % 3)
        else:
            self.driver.add_queue(index, queue)
        self.queues[index] = queue

    def ask(self, one, two):
        index = one % len(self.transport.device.queue_sizes)
        if index in self.queues:
            request = self.host.request(index, two)
            self.queues[index].add(*request, indirect=bool(one & 128))

    def kick(self, _one, _two):
        for index in self.queues:
            self.driver.notify(index)
        self.loop.run(self.transport)

    def collect(self, one, two):
        for queue in self.queues.values():
            queue.collect()
            queue.enable_interrupts(1 + two % 3) if one & 1 else queue.disable_interrupts()

    def act(self, one, _two):
        self.host.act(one)

    def acknowledge(self, _one, _two):
        self.driver.acknowledge()

    def write_config(self, one, two):
        self.driver.write_config(one % 64, bytes([two & 1]))

    def write_status(self, one, _two):
        self.driver.write_status((0, 1, 3, 11, 128)[one % 5])

    def reset_queue(self, one, two):
        index = one % len(self.transport.device.queue_sizes)
        self.driver.reset_queue(index)
        self.queues.pop(index, None)
        if two & 1:
            self.add_queue(index, self.transport.features, one)

    def break_queue(self, one, _two):
        if one % 4 == 0 and 0 in self.queues:
            areas = self.queues[0].layout.areas
            self.memory.write(areas[0], struct.pack("<QIHH", 2**63, 1, 0, 0x80) * 4)

    def disable_queue(self, one, _two):
        if not self.pci and one & 1:
            self.driver.write(0x030, 0)
            self.driver.write(0x044, 0)

    def accept_too_much(self, one, _two):
        """More than any device offers; FEATURES_OK must be refused, also later."""
        for status in (0, 1, 3):
            self.driver.write_status(status)
        self.driver.accept_features(int(Feature.VERSION_1))
        words = {True: (0x08, 0x0C), False: (0x024, 0x020)}[self.pci]
        for register, value in zip(words, (2, 1), strict=True):
            write = self.driver.write_common if self.pci else self.driver.write
            write(register, value, 4)
        if one & 1:
            self.driver.write_status(11)

    def interrupts(self, one, two):
        if self.pci and two & 3:
            self.driver.enable_msix()
            self.driver.set_vector(one % 3, 0xFEE0_0000, one, masked=bool(one & 4))
            self.driver.set_config_vector(one % 3)
        elif self.pci:
            self.driver.write_config_space(self.driver.msix + 2, (one & 3) << 14, 2)
            self.driver.write_config_space(0x04, one << 1 & 0x406, 2)
            self.driver.write_config_space(0x10, one << 24, 4)

    def masks(self, one, two):
        if self.pci:
            self.driver.mask_vector(one % 3, masked=bool(two & 1))
            self.driver.mask_function(masked=bool(two & 6 == 0))

    # What can be seen

    def signs(self):
        """A little of it, often. A configuration that is looked at has a generation."""
        vectors = [vector.count for vector in self.vectors]
        pin = self.pin.active if self.pci else self.interrupt.count
        return self.driver.status, self.driver.read_config(0, 12), vectors, pin

    def seen(self):
        widths = [(offset, 4) for offset in (0x10, 0x34, 0x44, 0x60, 0x70, 0xFC)]
        start = 0x100
        more = [self.interrupt.count]
        if self.pci:
            widths = [(0, 4), (4, 4), (8, 4), (12, 4), (0x10, 2), (0x12, 2), (0x14, 1), (0x15, 1)]
            widths += [(0x16 + 2 * step, 2) for step in range(5)]
            widths += [(0x20 + 4 * step, 4) for step in range(6)]
            widths += [(0x4000 + step, 4) for step in range(0, 48, 4)] + [(0x5000, 8)]
            start = 0x2000
            space = [self.driver.config(offset, 4) for offset in range(0, 256, 4)]
            counts = [vector.count for vector in self.vectors]
            messages = [vector.message for vector in self.vectors]
            more = [space, counts, messages, self.pin.active, self.transport.memory_ranges()]
        return (
            [self.driver.read(offset, size) for offset, size in widths],
            [self.driver.read(start + offset, 1) for offset in range(64)],
            self.memory.read(0, 0x20000),
            self.transport.features,
            self.transport.failure is None,
            *more,
        )


NAMES = (
    *("start", "ask", "ask", "kick", "kick", "collect", "act", "acknowledge", "write_config"),
    *("write_status", "reset_queue", "disable_queue", "break_queue", "accept_too_much"),
    *("interrupts", "masks", "masks"),
)
steps = st.tuples(st.sampled_from(NAMES), st.integers(0, 255), st.integers(0, 255))


@pytest.mark.parametrize("pci", [False, True], ids=["mmio", "pci"])
@pytest.mark.parametrize("host", [Numbers, Disk, Card, Terminals])
@settings(max_examples=50, deadline=None)
@given(
    before=st.lists(steps, min_size=5, max_size=20),
    after=st.lists(steps, min_size=5, max_size=15),
    begin=st.integers(0, 63),
)
def test_a_restored_device_is_as_its_twin(host, pci, before, after, begin):
    """Whatever its driver does before and after, nobody sees the difference."""
    twins = [Twin(host(), pci) for _ in range(2)]
    try:
        for step in (("start", begin, 0), *before, None, *after):
            if step is None:
                twins[1].replace()
                assert twins[0].seen() == twins[1].seen()
            else:
                for twin in twins:
                    twin.step(*step)
            assert twins[0].signs() == twins[1].signs()
        assert twins[0].seen() == twins[1].seen()
    finally:
        for twin in twins:
            twin.close()


@pytest.fixture(params=[False, True], ids=["mmio", "pci"])
def twin(request):
    """A disk in operation, with one request behind it."""
    twin = Twin(Disk(), request.param)
    twin.start(RINGS >> 28 & 14, 0)
    twin.ask(0, 0)
    twin.kick(0, 0)
    yield twin
    twin.close()


def refused(twin, state):
    """Why a new transport does not take a record; it works nevertheless."""
    fresh = twin.make()
    with pytest.raises(InvalidState) as caught:
        fresh.restore(state)
    assert fresh.status == 0
    driver = PciDriver(fresh) if twin.pci else MmioDriver(fresh)
    driver.negotiate()
    return caught.value.problem


def changed(state, **fields):
    return state._replace(life=state.life._replace(**fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"status": 4}, "impossible status"),
        ({"status": 79}, "impossible status"),
        ({"status": 11}, "before it was started"),
        ({"status": 0, "rings": (None, None), "failure": "x"}, "failed before"),
        ({"features": -1}, "features"),
        ({"features": 1 << 32 | 1 << 63}, "not negotiated|not offered"),
        ({"features": 0}, "not negotiated|VERSION_1"),
        ({"generation": 1 << 32}, "a generation"),
        ({"unknown_features": True}, "not offered"),
        ({"rings": (None, None)}, "not in operation"),
        ({"rings": ()}, "2 queues"),
        ({"registers": ()}, "2 queues"),
        ({"device": None}, "none of a disk"),
        ({"device": (True,)}, "none of a disk"),
        ({"device": BlockState(1)}, "has 1 for writeback"),
        ({"failure": "x"}, "failed and queues in operation"),
        ({"config": b""}, "configuration space of 0 bytes"),
        ({"config": bytes(999)}, "configuration space of 999 bytes"),
        ({"status": 1, "rings": (None, None)}, "accepted by no driver"),
        ({"status": 3, "rings": (None, None)}, "set up too early"),
    ],
    ids=repr,
)
def test_a_record_that_contradicts_itself_is_refused(twin, fields, problem):
    """It says what is wrong with it, and the transport is as new."""
    found = refused(twin, changed(twin.transport.save(), **fields))
    assert any(part in found for part in problem.split("|")), found


@pytest.mark.parametrize(
    "registers",
    [
        {"size": 1 << 32},
        {"size": 8},
        {"areas": (0x1000, 0x2000)},
        {"areas": (0x1000, 0x2000, 1 << 64)},
        {"areas": (0x1000, 0x1100, 0x1000_0000)},
        {"was_reset": True},
    ],
    ids=repr,
)
def test_a_queue_elsewhere_than_its_registers_say_is_refused(twin, registers):
    """Both are in the record, and must be the same."""
    state = twin.transport.save()
    first, *others = state.life.registers
    refused(twin, changed(state, registers=(first._replace(**registers), *others)))


def test_a_queue_cannot_have_been_reset_without_the_feature(twin):
    """RING_RESET is not among what this driver accepted."""
    state = twin.transport.save()
    assert not state.life.features & Feature.RING_RESET
    first, *others = state.life.registers
    first = first._replace(size=0, ready=False, was_reset=True, areas=(0, 0, 0))
    record = changed(state, registers=(first, *others), rings=(None, *state.life.rings[1:]))
    assert "reset alone" in refused(twin, record)


def test_a_queue_that_was_reset_is_not_in_operation():
    """One of the two is not so, even where a driver may reset queues."""
    twin = Twin(Disk(), pci=False)
    try:
        twin.start(1, 0)
        state = twin.transport.save()
        assert state.life.features & Feature.RING_RESET
        first, *others = state.life.registers
        first = first._replace(ready=False, was_reset=True)
        record = changed(state, registers=(first, *others))
        assert "reset and in operation" in refused(twin, record)
    finally:
        twin.close()


def test_an_interrupt_that_is_shown_is_in_the_isr():
    """The bit of the configuration space follows from it, and from MSI-X."""
    twin = Twin(Disk(), pci=True)
    try:
        twin.start(0, 0)
        twin.ask(0, 0)
        twin.kick(0, 0)
        state = twin.transport.save()
        assert (state.isr, twin.pin.active) == (1, True)
        assert "shows an interrupt" in refused(twin, state._replace(isr=0))
    finally:
        twin.close()


def test_a_message_that_nothing_holds_back_cannot_wait():
    """MSI-X is on and the vector is not masked: it would have been sent."""
    twin = Twin(Disk(), pci=True)
    try:
        twin.driver.enable_msix()
        twin.driver.set_vector(0, 0xFEE0_0000, 1)
        record = twin.transport.save()._replace(pending=b"\1" + bytes(7))
        assert "vector 0 due and not sent" in refused(twin, record)
    finally:
        twin.close()


def test_what_a_device_says_while_it_is_restored_is_not_passed_on(memory):
    """Its driver has heard it before; what comes later is new."""

    class Talkative(Rng):
        def activate(self, memory, queues, interrupt):
            super().activate(memory, queues, interrupt)
            self.tell = interrupt
            self.tell.config_change()

    interrupts = [InterruptCounter(), InterruptCounter()]
    transports = [
        MmioTransport(Talkative(), memory, interrupt, kick=[].append) for interrupt in interrupts
    ]
    driver = MmioDriver(transports[0])
    driver.negotiate()
    driver.start()
    transports[1].restore(transports[0].save())
    assert [interrupt.count for interrupt in interrupts] == [1, 0]
    transports[1].device.tell.config_change()
    assert interrupts[1].count == 1


def leaves(record, path=()):
    """Where the values of a record are, and the parts that are made of them."""
    yield path
    fields = record.__slots__ if isinstance(record, QueueState) else range(len(record))
    for field in fields:
        value = getattr(record, field) if isinstance(record, QueueState) else record[field]
        if isinstance(value, tuple | QueueState):
            yield from leaves(value, (*path, field))
        else:
            yield (*path, field)


def replaced(record, path, value):
    """The same with another value at one place."""
    if not path:
        return value
    field, *rest = path
    if isinstance(record, QueueState):
        fields = {name: getattr(record, name) for name in record.__slots__}
        fields[field] = replaced(fields[field], rest, value)
        return QueueState(**fields)
    values = list(record)
    values[field] = replaced(values[field], rest, value)
    return record._make(values) if hasattr(record, "_make") else tuple(values)


junk = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.integers(0, 300), st.floats(), st.text()),
    *(st.binary(max_size=70), st.tuples(), st.tuples(st.integers(0, 9)), st.just(object())),
)


@pytest.mark.parametrize("host", [Numbers, Disk, Card, Terminals])
@pytest.mark.parametrize("pci", [False, True], ids=["mmio", "pci"])
@settings(max_examples=150, deadline=None)
@given(st.data(), junk, st.integers(0, 127))
def test_a_record_with_anything_in_it_is_refused_or_taken_as_it_is(pci, host, data, value, one):
    """Any value at any place: InvalidState, or a device whose record is the same again."""
    twin = Twin(host(), pci)
    try:
        twin.start(one, 0)
        twin.ask(0, 0)
        twin.kick(0, 0)
        state = twin.transport.save()
        path = data.draw(st.sampled_from(list(leaves(state))))
        record = replaced(state, path, value)
        fresh = twin.make()
        try:
            fresh.restore(record)
        except InvalidState:
            return
        assert repr(fresh.save()) == repr(record)
        fresh.reset()
    finally:
        twin.close()


def test_a_ring_that_cannot_be_is_refused(twin):
    """A position outside the ring, or memory that is not there."""
    state = twin.transport.save()
    ring = twin.transport.save().life.rings[0]
    ring.position = 0x7FFF if ring.packed else 0x10000
    assert "position" in refused(twin, changed(state, rings=(ring, state.life.rings[1])))
    twin.memory.close()
    twin.memory = GuestMemory.from_ranges([(0, 0x1000)])
    assert "impossible here" in refused(twin, state)
    twin.transport = twin.make()


def test_a_reset_forgets_what_was_selected(twin):
    """The next driver finds the first words of features, and queue 0."""
    if twin.pci:
        for offset, size in ((0x00, 4), (0x08, 4), (0x16, 2)):
            twin.driver.write_common(offset, 1, size)
    else:
        for offset in (0x014, 0x024, 0x030):
            twin.driver.write(offset, 1)
    assert twin.transport.save().selectors == (1, 1, 1)
    twin.driver.write_status(0)
    assert twin.transport.save().selectors == (0, 0, 0)


def test_a_transport_in_use_takes_no_record(twin):
    """It would forget its driver."""
    state = twin.transport.save()
    with pytest.raises(InvalidState, match="in use"):
        twin.transport.restore(state)
    twin.transport.reset()


@pytest.mark.parametrize(
    "fields",
    [
        {"space": bytes(256)},
        {"space": b""},
        {"table": b""},
        {"table": b"\xff" * 48},
        {"pending": b"\x08" + bytes(7)},
        {"pending": b"\x01" + bytes(6)},
        {"isr": 4},
        {"config_vector": 3},
        {"queue_vectors": (0,)},
        {"queue_vectors": (-1, 0)},
        {"selectors": (0, 0, 0x10000)},
    ],
    ids=repr,
)
def test_impossible_registers_of_a_function_are_refused(fields):
    """What software cannot have written, or what would have been sent."""
    twin = Twin(Disk(), pci=True)
    try:
        refused(twin, twin.transport.save()._replace(**fields))
    finally:
        twin.close()


@pytest.mark.parametrize("fields", [{"interrupt_status": 4}, {"selectors": (0, 0, -1)}], ids=repr)
def test_impossible_registers_of_a_block_are_refused(fields):
    """Bits that mean nothing, a number that no register holds."""
    twin = Twin(Disk(), pci=False)
    try:
        refused(twin, twin.transport.save()._replace(**fields))
    finally:
        twin.close()


def test_a_cache_mode_that_nobody_chose_is_refused(twin):
    """CONFIG_WCE was not negotiated, so the mode follows from FLUSH."""
    twin.driver.negotiate()
    state = twin.transport.save()
    wrong = state.life.device._replace(writeback=True)
    assert "cache mode" in refused(twin, changed(state, device=wrong))


@pytest.mark.parametrize(
    "fields",
    [{"mac": b"\1" * 6}, {"status": 4}, {"offloads": 1 << 60}, {"active_pairs": 3}],
    ids=repr,
)
def test_an_impossible_network_card_is_refused(fields):
    """A group's address, a status bit that does not exist, more pairs than there are."""
    twin = Twin(Card(), pci=False)
    try:
        twin.start(0, 0)
        state = twin.transport.save()
        refused(twin, changed(state, device=state.life.device._replace(**fields)))
    finally:
        twin.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"size": (1, 65536)},
        {"host_open": (True,)},
        {"guest_open": ()},
        {"written": ()},
        {"written": (-1, 0)},
        {"messages": ((2, 1, bytes(8)),)},
        {"messages": ((1, 1, bytes(8)),)},
    ],
    ids=repr,
)
def test_an_impossible_console_is_refused(fields):
    """Sizes, ports and messages that it cannot have."""
    twin = Twin(Terminals(), pci=False)
    try:
        twin.start(0, 0)
        state = twin.transport.save()
        refused(twin, changed(state, device=state.life.device._replace(**fields)))
    finally:
        twin.close()


@pytest.fixture
def terminal(memory, pipe):
    """Makes one that writes into a pipe, with its driver; the pipe's other end comes with it."""
    reader, writer = pipe()
    with contextlib.ExitStack() as stack:

        def make():
            console = stack.enter_context(Console(ConsolePort(writer)))
            loop = Loop()
            return MmioTransport(console, memory, InterruptCounter(), kick=loop.kick), loop

        yield make, reader


def start_output(transport, memory):
    """A driver with the queue of a terminal's output."""
    driver = MmioDriver(transport)
    queue = negotiated_queue(memory, 0x1000, 4, driver.negotiate(), span=0x18000)
    driver.add_queue(1, queue)
    driver.start()
    return driver, queue


@pytest.mark.parametrize("restored", [True, False], ids=["restored", "goes on"])
@pytest.mark.parametrize("status", [15, 143], ids=["in use", "given up"])
def test_half_a_buffer_of_output_is_saved(terminal, memory, restored, status):
    """A pipe that is full keeps no guest from being saved, and each byte goes out once."""
    make, reader = terminal
    transport, loop = make()
    driver, queue = start_output(transport, memory)
    text = bytes(range(256)) * 300  # more than a pipe holds
    queue.add([text])
    driver.notify(1)
    loop.run(transport)
    if status == 143:
        driver.write_status(status)
    state = transport.save()
    assert transport.save() == state
    assert 0 < state.life.device.written[0] < len(text)
    came = os.read(reader, 1 << 20)
    assert came == text[: state.life.device.written[0]]
    if restored:
        transport, loop = make()
        transport.restore(state)
    while transport.process_queue(1):
        pass
    if status == 143:  # the queue rests until the reset
        assert queue.collect() == []
        return
    assert came + os.read(reader, 1 << 20) == text
    assert len(queue.collect()) == 1
    assert transport.save().life.device.written == (0,)


def test_what_has_gone_out_of_a_shorter_buffer_is_all_of_it(terminal, memory):
    """The buffer is the guest's; it may have made it another one meanwhile."""
    make, reader = terminal
    transport, _loop = make()
    _driver, queue = start_output(transport, memory)
    state = transport.save()
    device = state.life.device._replace(written=(1 << 40,))
    transport, _loop = make()
    transport.restore(changed(state, device=device))
    queue.add([b"gone"])
    queue.add([b"text"])
    assert not transport.process_queue(1)
    assert os.read(reader, 100) == b"text"
    assert len(queue.collect()) == 2


def test_a_buffer_for_bytes_that_did_not_come_is_put_back(memory):
    """Somebody else took them: the buffer was taken in vain."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far, Console(ConsolePort(source=near.fileno())) as console:
        transport = MmioTransport(console, memory, InterruptCounter(), kick=[].append)
        driver = MmioDriver(transport)
        queue = negotiated_queue(memory, 0x1000, 4, driver.negotiate(), span=0x4000)
        driver.add_queue(0, queue)
        driver.start()
        queue.add(writable=[8])
        far.send(b"x")
        console._active[0]._receiver._memory = Thief(near)
        transport.process_queue(0)
        console._active[0]._receiver._memory = memory
        assert transport.save().life.rings[0].position & 0x7FFF == 0
        far.send(b"again")
        transport.process_queue(0)
        assert [used.data for used in queue.collect()] == [b"again"]
        transport.reset()


class Thief:
    """Memory that loses a race for what can be read."""

    def __init__(self, end):
        self._end = end

    def readv(self, _fd, _spans):
        self._end.recv(100)
        raise BlockingIOError


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_buffers_that_wait_for_more_of_them_are_saved(packed):
    """A frame without room hinders no save; it is lost to the restored card alone."""
    twin = Twin(Card(), pci=False)
    try:
        twin.start(int(packed), 0)
        assert bool(twin.transport.features & Feature.RING_PACKED) == packed
        for size in (100, 5, 100):  # one could not hold a header
            twin.queues[0].add(writable=[size])
        far = twin.host._ends[1]
        far.send(bytes(12) + b"large".ljust(300, b"."))
        twin.transport.process_queue(0)
        state = twin.transport.save()
        assert state.life.rings[0].position & 0x7FFF == 0
        restored = twin.make()
        restored.restore(state)
        twin.transport.process_queue(0)
        twin.queues[0].add(writable=[200])
        twin.transport.process_queue(0)
        data = [used.data for used in twin.queues[0].collect()]
        assert [len(each) for each in data] == [100, 5, 100, 107]
        assert b"".join(data)[12:] == b"large".ljust(300, b".")
        assert twin.transport.save().life.rings[0].position & 0x7FFF == (0 if packed else 4)
        restored.reset()
    finally:
        twin.close()


def test_a_device_that_keeps_a_chain_is_not_saved(memory):
    """There is no record of what is in flight."""

    class Keeper(Rng):
        def activate(self, memory, queues, interrupt):
            super().activate(memory, queues, interrupt)
            self.chain = queues[0].pop()

    transport = MmioTransport(Keeper(), memory, InterruptCounter(), kick=[].append)
    driver = MmioDriver(transport)
    queue = negotiated_queue(memory, 0x1000, 4, driver.negotiate(), span=0x4000)
    queue.add(writable=[4])
    driver.add_queue(0, queue)
    driver.start()
    with pytest.raises(VirtioUsageError, match="1 chains are in flight"):
        transport.save()


def test_a_device_that_remembers_nothing_needs_no_methods(memory):
    """It is saved as its registers and rings are."""
    loop = Loop()
    transports = [
        MmioTransport(Rng(bytes), memory, InterruptCounter(), kick=loop.kick) for _ in range(2)
    ]
    driver = MmioDriver(transports[0])
    queue = negotiated_queue(memory, 0x1000, 4, driver.negotiate(), span=0x4000)
    driver.add_queue(0, queue)
    driver.start()
    state = transports[0].save()
    assert state.life.device is None
    transports[1].restore(state)
    queue.add(writable=[4])
    transports[1].process_queue(0)
    assert [used.data for used in queue.collect()] == [bytes(4)]


@pytest.mark.parametrize("how", ["vector", "function", "off"])
def test_a_message_that_waits_is_sent_by_the_restored_function(how):
    """Whatever held it back: it is sent once, when that goes."""
    twin = Twin(Numbers(), pci=True)
    try:
        driver = twin.driver
        driver.enable_msix()
        for vector in range(3):
            driver.set_vector(vector, 0xFEE0_0000, vector)
        twin.start(0, 0)
        driver.mask_vector(0, masked=how != "function")
        driver.mask_function(masked=how == "function")
        twin.ask(0, 0)
        twin.kick(0, 0)
        if how == "off":
            driver.write_config_space(driver.msix + 2, 0, 2)
        twin.replace()
        assert (twin.vectors[0].count, driver.is_pending(0)) == (0, True)
        driver.enable_msix()
        driver.mask_vector(0, masked=False)
        driver.mask_function(masked=False)
        assert (twin.vectors[0].count, driver.is_pending(0)) == (1, False)
    finally:
        twin.close()
