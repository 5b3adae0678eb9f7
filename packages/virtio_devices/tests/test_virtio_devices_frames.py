"""Batches of frames between a descriptor and the rings, in both formats."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virtio_devices import DriverViolation, SplitQueue, VirtioUsageError
from virtio_devices._core import Arrivals, Departures
from virtio_devices.descriptor import OwnDescriptor, Readiness
from virtio_devices.net.counters import NetCounters
from virtio_devices.net.frame import HEADER_SIZE, LARGEST, SMALLEST
from virtio_devices.net.receive import Receiver
from virtio_devices.testing import SplitDriver
from vm_memory import GuestMemory

BATCH = 64
LARGE = 5000  # more than what is copied out of the guest
function_fixture = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes new memory each time
)


class ToldMemory(GuestMemory):
    """Memory with a listener."""

    listener = staticmethod(lambda _address, _size: None)

    def wrote(self, address, size):
        self.listener(address, size)


@pytest.fixture
def wire():
    """Two ends of a socket that keeps messages apart: (the device's, the host's)."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


@pytest.fixture
def make_memory():
    """Makes memory of two regions that touch inside the drivers' buffers."""
    made = []

    def make(kind=GuestMemory, **options):
        made.append(kind.from_ranges([(0, 0x5000), (0x5000, 0x1FB000)], **options))
        return made[-1]

    yield make
    for memory in made:
        memory.close()


def message(number, size):
    """A header and a frame, like no other of its size."""
    return bytes(HEADER_SIZE) + number.to_bytes(4, "little").ljust(size - HEADER_SIZE, b"\x5a")


def arrived(far):
    messages = []
    while True:
        try:
            messages.append(far.recv(1 << 17))
        except BlockingIOError:
            return messages


def divided(size, pieces):
    """`size` as a sum of `pieces` numbers."""
    return [size // pieces] * (pieces - 1) + [size - size // pieces * (pieces - 1)]


def expected_arrivals(sizes, buffers, most):
    """What the driver finds in its used buffers, frames that wait, and the counts.

    The rules of `NetCounters` and virtio 1.2 §5.1.6.4, on plain lists.
    """
    used, counts = [], dict.fromkeys(("frames", "bytes", "malformed", "too_large", "bad"), 0)
    held, buffers = [], list(buffers)
    for number, size in enumerate(sizes):
        if not SMALLEST <= size <= LARGEST:
            counts["malformed"] += 1
            continue
        refuse_first(held, used, counts)
        while sum(held) < size and len(held) < most:
            if not buffers:
                return used, len(sizes) - number, counts
            held.append(buffers.pop(0))
            refuse_first(held, used, counts)
        if sum(held) < size:
            counts["too_large"] += 1
            continue
        taken = []
        while sum(taken) < size:
            taken.append(held.pop(0))
        data = bytearray(message(number, size))
        data[10:12] = len(taken).to_bytes(2, "little")
        for room in taken:
            used.append(bytes(data[:room]))
            del data[:room]
        counts["frames"] += 1
        counts["bytes"] += size - HEADER_SIZE
    return used, 0, counts


def refuse_first(held, used, counts):
    """Buffers that could not hold a header come back empty when a frame would begin in them."""
    while held and held[0] < HEADER_SIZE:
        held.pop(0)
        used.append(b"")
        counts["bad"] += 1


@function_fixture
@given(
    st.lists(st.one_of(st.integers(17, 400), st.integers(1400, 2600)), max_size=12),
    st.lists(st.one_of(st.integers(0, 300), st.integers(2000, 2600)), min_size=1, max_size=40),
    st.tuples(st.integers(1, 3), st.booleans(), st.booleans()),
)
def test_arrivals_are_as_the_rules_say(ring, make_memory, wire, sizes, buffers, layout):
    """Which buffers a frame fills, what is dropped and what waits, against plain lists.

    Buffers that are held can be put back at any time, and nobody sees it.
    """
    near, far = wire
    arrived(near)
    pieces, indirect, mergeable = layout
    driver, queue = ring.pair(make_memory(), 128, span=0x100000)
    arrivals = Arrivals(queue, mergeable, LARGEST)
    for number, size in enumerate(sizes):
        far.send(message(number, size))
    later = buffers[len(buffers) // 2 :]
    for size in buffers[: len(buffers) // 2]:
        driver.add(writable=divided(size, pieces), indirect=indirect)
    total = [0] * 6
    while True:
        before = arrivals.waiting
        more = before or arrivals.read(near.fileno(), 1000)
        total = [a + b for a, b in zip(total, arrivals.deliver(True), strict=True)]
        arrivals.put_back()
        assert not queue.in_flight
        if arrivals.waiting and later:
            for size in later:
                driver.add(writable=divided(size, pieces), indirect=indirect)
            later = []
        elif arrivals.waiting or not more:
            break
    if later:
        buffers = buffers[: len(buffers) // 2]
    used, waiting, counts = expected_arrivals(sizes, buffers, 128 if mergeable else 1)
    assert [each.data for each in driver.collect()] == used
    assert arrivals.waiting + len(arrived(near)) == waiting
    assert bool(arrivals.waiting) == bool(waiting)
    assert total == [
        *(counts["frames"], counts["bytes"], counts["malformed"], counts["too_large"], 0),
        counts["bad"],
    ]


@function_fixture
@given(
    st.lists(
        st.one_of(st.integers(1, 100), st.integers(1000, 4000), st.sampled_from([LARGEST + 1])),
        max_size=40,
    ),
    st.integers(1, 3),
    st.booleans(),
)
def test_departures_are_as_the_rules_say(ring, make_memory, wire, sizes, pieces, indirect):
    """Frames go out in order and whole; what is none comes back to the caller, in its place."""
    near, far = wire
    arrived(far)
    driver, queue = ring.pair(make_memory(), 128, span=0x1F0000)
    messages = [message(number, max(size, 16))[:size] for number, size in enumerate(sizes)]
    for data in messages:
        driver.add(driver_parts(data, pieces), indirect=indirect)
    departures, sent, size, odd, came = Departures(queue), 0, 0, [], []
    while True:
        count, total, error, chain = departures.send(near.fileno(), 1000)
        came += arrived(far)
        sent, size = sent + count, size + total
        assert (error, count <= BATCH) == (0, True)
        if chain is None and not count:
            break
        if chain is not None:
            odd.append(chain.reader.size)
            queue.add_used(chain, 0)
    frames = [data for data in messages if SMALLEST <= len(data) <= LARGEST]
    assert came == frames
    assert (sent, size) == (len(frames), sum(map(len, frames)) - HEADER_SIZE * len(frames))
    assert odd == [len(data) for data in messages if not SMALLEST <= len(data) <= LARGEST]
    assert len(driver.collect()) == len(messages)
    assert not queue.in_flight


def driver_parts(data, pieces):
    """The bytes in as many buffers."""
    parts = []
    for size in divided(len(data), pieces):
        parts.append(data[:size])
        data = data[size:]
    return parts


def test_frames_without_buffers_stay_outside(ring, make_memory, wire):
    """One more than the buffers is read, so that it can be dropped if it is good for nothing."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 16)
    arrivals = Arrivals(queue, True, LARGEST)
    for number in range(5):
        far.send(message(number, 100))
    for _ in range(2):
        driver.add(writable=[60, 60])
    assert arrivals.read(near.fileno(), 64)
    assert arrivals.deliver(True) == (2, 176, 0, 0, 0, 0)
    assert arrivals.read(near.fileno(), 64)
    assert arrivals.deliver(True) == (0, 0, 0, 0, 0, 0)
    assert arrivals.waiting == 1
    assert arrivals.read(near.fileno(), 64)
    assert arrivals.waiting == 1
    assert arrived(near) == [message(3, 100), message(4, 100)]


def offer_nonsense(ring, driver):
    """A chain that lies outside memory."""
    if ring.name == "split":
        driver.write_descriptor(9, 0xFFFF_0000, 200)
        driver.offer(9)
    else:
        driver.offer([(0xFFFF_0000, 200, 0)], identifier=9)


def test_a_fault_behind_a_frame_that_arrives_is_met_by_the_next_call(ring, make_memory, wire):
    """What came before it is done and counted."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 16)
    arrivals = Arrivals(queue, True, LARGEST)
    driver.add(writable=[200])
    offer_nonsense(ring, driver)
    for number in range(3):
        far.send(message(number, 100))
    assert arrivals.read(near.fileno(), 64)
    assert arrivals.deliver(True) == (1, 88, 0, 0, 0, 0)
    with pytest.raises(DriverViolation, match="no guest memory"):
        arrivals.deliver(True)
    assert (arrivals.waiting, len(arrived(near))) == (1, 1)
    assert len(driver.collect()) == 1


def test_a_fault_behind_a_frame_that_departs_is_met_by_the_next_call(ring, make_memory, wire):
    """What came before it is sent."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 16)
    departures = Departures(queue)
    driver.add([message(1, 100)])
    offer_nonsense(ring, driver)
    assert departures.send(near.fileno(), 64) == (1, 88, 0, None)
    with pytest.raises(DriverViolation, match="no guest memory"):
        departures.send(near.fileno(), 64)
    assert arrived(far) == [message(1, 100)]
    assert len(driver.collect()) == 1


def test_a_fault_behind_a_useless_buffer_is_met_by_the_next_call(ring, make_memory, wire):
    """What came back is counted first."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 16)
    arrivals = Arrivals(queue, True, LARGEST)
    driver.add(writable=[HEADER_SIZE - 1])
    offer_nonsense(ring, driver)
    far.send(message(1, 100))
    arrivals.read(near.fileno(), 64)
    assert arrivals.deliver(True) == (0, 0, 0, 0, 0, 1)
    with pytest.raises(DriverViolation, match="no guest memory"):
        arrivals.deliver(True)


def test_the_smallest_frame_arrives(ring, make_memory, wire):
    """It is an Ethernet header, and no more; what is smaller is none."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 16)
    arrivals = Arrivals(queue, True, LARGEST)
    for _ in range(2):
        driver.add(writable=[100])
    far.send(bytes(SMALLEST - 1))
    far.send(bytes(SMALLEST))
    assert arrivals.read(near.fileno(), 64)
    assert arrivals.deliver(True) == (1, SMALLEST - HEADER_SIZE, 1, 0, 0, 0)


def test_an_end_behind_frames_waits_for_them(ring, make_memory, wire):
    """They are passed on first."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 16)
    arrivals = Arrivals(queue, True, LARGEST)
    for _ in range(4):
        driver.add(writable=[200])
    far.send(message(1, 100))
    far.close()
    assert arrivals.read(near.fileno(), 64)
    assert arrivals.deliver(True)[0] == 1
    with pytest.raises(EOFError, match="closed"):
        arrivals.read(near.fileno(), 64)


def test_no_more_frames_are_sent_than_wanted(ring, make_memory, wire):
    """The others stay available."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 16)
    for number in range(10):
        driver.add([message(number, 100)])
    departures = Departures(queue)
    assert departures.send(near.fileno(), 3) == (3, 3 * 88, 0, None)
    assert departures.send(near.fileno(), 64) == (7, 7 * 88, 0, None)
    assert arrived(far) == [message(number, 100) for number in range(10)]


def test_a_closed_end_is_told_apart_from_an_empty_one(ring, make_memory, wire):
    """EOFError, OSError, or nothing yet."""
    near, far = wire
    _, queue = ring.pair(make_memory(), 16)
    arrivals = Arrivals(queue, True, LARGEST)
    assert not arrivals.read(near.fileno(), 64)
    far.close()
    with pytest.raises(EOFError, match="closed"):
        arrivals.read(near.fileno(), 64)
    with pytest.raises(OSError, match="descriptor"):
        arrivals.read(1 << 20, 64)


def test_a_refused_frame_is_handed_over_in_its_place(ring, make_memory, wire):
    """With its error; those before it are sent, and those behind it are available again."""
    near, far = wire
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    driver, queue = ring.pair(make_memory(), 16, span=0x100000)
    messages = [message(0, 100), message(1, 60000), message(2, 100), message(3, LARGE)]
    for data in messages:
        driver.add([data[:HEADER_SIZE], data[HEADER_SIZE:]])
    departures = Departures(queue)
    sent, size, error, chain = departures.send(near.fileno(), 64)
    assert (sent, size, error, chain.reader.size) == (1, 88, errno.EMSGSIZE, 60000)
    assert len(driver.collect()) == 1
    queue.add_used(chain, 0)
    assert departures.send(near.fileno(), 64) == (2, 88 + LARGE - HEADER_SIZE, 0, None)
    assert arrived(far) == [messages[0], *messages[2:]]


@pytest.mark.parametrize("pieces", [512, 513, 1023])
def test_a_large_frame_may_lie_in_very_many_pieces(ring, make_memory, wire, pieces):
    """More than the kernel takes in one call: such a frame is copied, in its place."""
    near, far = wire
    driver, queue = ring.pair(make_memory(), 1024, span=0x1F0000)
    messages = [message(0, 1000), message(1, LARGEST), *(message(2 + i, 2000) for i in range(70))]
    for data, count in zip(messages, [300, pieces] + [1] * 70, strict=True):
        driver.add(driver_parts(data, count), indirect=True)
    departures, came, calls = Departures(queue), [], []
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    while len(came) < len(messages):
        calls.append(departures.send(near.fileno(), 64))
        came += arrived(far)
    assert came == messages
    assert {call[2:] for call in calls if call[0]} == {(0, None)}
    assert len(driver.collect()) == len(messages)


@pytest.mark.parametrize("count", [8, 9, 40])
def test_a_large_frame_may_lie_in_many_regions(ring, wire, count):
    """More of them than a batch borrows."""
    near, far = wire
    places = [0x200000 + 0x2000 * index for index in range(count)]
    ranges = [(0, 0x200000), *((place, 0x1000) for place in places)]
    with GuestMemory.from_ranges(ranges) as memory:
        driver, queue = ring.pair(memory, 64)
        data = message(1, 1024 * count)
        for place, part in zip(places, driver_parts(data, count), strict=True):
            memory.write(place, part)
        offer_pieces(ring, driver, [(place, 1024) for place in places])
        assert Departures(queue).send(near.fileno(), 64) == (1, len(data) - HEADER_SIZE, 0, None)
        assert arrived(far) == [data]


def offer_pieces(ring, driver, pieces):
    """A chain of readable buffers at these places."""
    last = len(pieces) - 1
    if ring.name == "packed":
        driver.offer([(*piece, int(index < last)) for index, piece in enumerate(pieces)])
        return
    for index, piece in enumerate(pieces):
        driver.write_descriptor(index, *piece, int(index < last), index + 1)
    driver.offer(0)


def test_a_descriptor_that_is_full_leaves_the_rest_available(ring, make_memory, wire):
    """Nothing stays in flight."""
    near, far = wire
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    driver, queue = ring.pair(make_memory(), 64, span=0x100000)
    for number in range(60):
        driver.add([message(number, 1000)])
    departures = Departures(queue)
    came = []
    while len(came) < 60:
        sent, _, error, chain = departures.send(near.fileno(), 64)
        assert chain is None
        assert not queue.in_flight
        assert error in (0, errno.EAGAIN)
        assert sent or error
        came += arrived(far)
    assert came == [message(number, 1000) for number in range(60)]


class RestlessQueue(SplitQueue):
    """Whose driver has just added something, whenever it is asked."""

    def enable_notification(self):
        return True


def test_a_frame_that_waits_at_the_end_of_a_call_is_not_forgotten(make_memory, wire):
    """No kick follows, so the caller is to come again, though the backend has no more frames."""
    near, far = wire
    memory = make_memory()
    driver = SplitDriver(memory, 0x1000, 16)
    queue = RestlessQueue(memory, driver.layout)
    receiver = Receiver(
        queue, OwnDescriptor(near.fileno()), Readiness(), NetCounters(), mergeable=True, mtu=0
    )
    for _ in range(2):
        driver.add(writable=[60])
    far.send(message(1, 200))
    assert receiver.process(link_up=True)
    driver.add(writable=[100])
    assert not receiver.process(link_up=True)
    assert b"".join(used.data for used in driver.collect())[12:] == message(1, 200)[12:]


def pages_of(ranges):
    return {
        page for start, size in ranges for page in range(start >> 12, (start + size + 4095) >> 12)
    }


def test_what_arrives_is_marked_and_told_before_it_is_given(ring, make_memory, wire):
    """A listener hears of exactly the bytes that were written, while no buffer is used yet."""
    near, far = wire
    memory = make_memory(ToldMemory, track_dirty=True)
    driver, queue = ring.pair(memory, 16)
    places, heard = [], []

    def listen(address, size):
        places.append((address, size))
        heard.append((memory.read(address, size), len(driver.collect())))

    memory.listener = listen
    arrivals = Arrivals(queue, True, LARGEST)
    driver.add(writable=[40, 60])
    driver.add(writable=[0, 0x6000])
    data = message(1, 0x5000)
    far.send(data)
    arrivals.read(near.fileno(), 64)
    memory.get_and_reset_dirty()
    assert arrivals.deliver(True)[:2] == (1, 0x5000 - HEADER_SIZE)
    ring_pages = pages_of([(0x1000, driver.layout.end - 0x1000)])
    assert pages_of(memory.get_and_reset_dirty()) == pages_of(places) | ring_pages
    data = data[:10] + b"\2\0" + data[12:]
    assert heard == [(data[:40], 0), (data[40:100], 0), (data[100:], 0)]
    assert b"".join(used.data for used in driver.collect()) == data


def test_a_listener_cannot_come_back_in(ring, make_memory, wire):
    """The call that is under way has the queue; the listener's error is the caller's."""
    near, far = wire
    memory = make_memory(ToldMemory)
    driver, queue = ring.pair(memory, 16)
    arrivals = Arrivals(queue, True, LARGEST)
    memory.listener = lambda _address, _size: arrivals.deliver(True)
    driver.add(writable=[100])
    far.send(message(1, 60))
    arrivals.read(near.fileno(), 64)
    with pytest.raises(VirtioUsageError, match="in use by another thread"):
        arrivals.deliver(True)
    assert driver.collect() == []
    memory.listener = lambda _address, _size: queue.stop()
    assert arrivals.deliver(True)[0] == 0
    assert (arrivals.waiting, driver.collect()) == (1, [])


class BlockedSend:
    """A thread that is inside `send` with a large frame, until it is let go."""

    def __init__(self, ring, memory, near, far):
        self.memory = memory
        self.driver, self.queue = ring.pair(memory, 16)
        self.driver.add([message(1, LARGE // 2), message(2, LARGE // 2)])
        self.departures = Departures(self.queue)
        self.results = []
        self._far = far
        self._thread = threading.Thread(target=self._send, args=(near.fileno(),))
        self._thread.start()
        while not self.queue.in_flight:
            time.sleep(0.001)

    def _send(self, fd):
        self.results.append(self.departures.send(fd, 64))

    def let_go(self):
        """Make room; what `send` returned."""
        while self._thread.is_alive():
            arrived(self._far)
            self._thread.join(0.01)
        return self.results[0]


@pytest.fixture
def blocked(ring, make_memory, wire):
    """A thread that is inside `send`."""
    near, far = wire
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(100))
    near.setblocking(True)
    thread = BlockedSend(ring, make_memory(), near, far)
    yield thread
    thread.let_go()


def test_memory_stays_while_frames_are_sent(blocked):
    """Without the GIL nothing but the borrow keeps it."""
    with pytest.raises(BufferError, match="still borrowed"):
        blocked.memory.close()
    assert blocked.let_go() == (1, LARGE - HEADER_SIZE, 0, None)


def test_one_thread_at_a_time_sends(blocked):
    """Another one is told, and changes nothing."""
    with pytest.raises(VirtioUsageError, match="in use by another thread"):
        blocked.departures.send(0, 1)
    assert blocked.let_go() == (1, LARGE - HEADER_SIZE, 0, None)
    assert len(blocked.driver.collect()) == 1


def test_a_queue_that_is_stopped_meanwhile_stays_untouched(blocked):
    """The driver may use its rings for something else (§2.6.1)."""
    rings = blocked.memory.read(0x1000, blocked.driver.layout.end - 0x1000)
    blocked.queue.stop()
    assert blocked.let_go()[0] == 1
    assert blocked.memory.read(0x1000, len(rings)) == rings
