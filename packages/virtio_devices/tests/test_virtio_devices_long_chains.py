"""Chains of very many descriptors with nothing in them: what a call looks at has a bound."""

from __future__ import annotations

import socket
import struct
import tempfile

import pytest

from virtio_devices import Block, Feature, MmioTransport, RawImage, serve
from virtio_devices._core import Arrivals, Departures
from virtio_devices.descriptor import OwnDescriptor, Readiness
from virtio_devices.net.counters import NetCounters
from virtio_devices.net.frame import HEADER_SIZE, LARGEST
from virtio_devices.net.receive import Receiver
from virtio_devices.net.transmit import Transmitter
from virtio_devices.queue.serve import BATCH, MAX_WALK
from virtio_devices.testing import InterruptCounter, MmioDriver
from vm_memory import GuestMemory

SIZE = 2048
TABLE, DATA = 0x200000, 0x280000
CHAINS = 3 * MAX_WALK // SIZE
MOST = MAX_WALK // SIZE  # chains of this length that one call takes
NEXT, WRITE, INDIRECT = 1, 2, 4


@pytest.fixture
def memory():
    with GuestMemory.from_ranges([(0, 0x300000)]) as memory:
        yield memory


def flood(ring, memory, driver, *buffers):
    """Offer chains of these buffers (address, size, flags), behind as many empty ones as may be."""
    empty = [(DATA, 0, buffers[0][2])] * (SIZE - len(buffers))
    for index, (address, size, flags) in enumerate([*empty, *buffers]):
        if ring.name == "packed":
            fields = (address, size, 0, flags)
        else:
            following = NEXT if index + 1 < SIZE else 0
            fields = (address, size, flags | following, index + 1)
        memory.write(TABLE + 16 * index, struct.pack("<QIHH", *fields))
    for number in range(CHAINS):
        if ring.name == "packed":
            driver.offer([(TABLE, 16 * SIZE, INDIRECT)], number)
        else:
            driver.write_descriptor(number, TABLE, 16 * SIZE, INDIRECT)
            driver.offer(number)


def test_a_batch_ends_after_so_many_descriptors(ring, memory):
    """The chains behind them are the next one's; the queue counts what it has looked at."""
    driver, queue = ring.pair(memory, SIZE, span=0x100000)
    flood(ring, memory, driver, (DATA, 1, 0))
    counts = [len(queue.pop_batch(1000)) for _ in range(4)]
    assert counts == [MOST, MOST, MOST, 0]
    assert queue.walked == CHAINS * SIZE


def test_a_queue_of_requests_is_served_in_several_calls(ring, memory):
    """Each says that more is left."""
    driver, queue = ring.pair(memory, SIZE, span=0x100000)
    flood(ring, memory, driver, (DATA, 1, 0))
    handled = []
    answers = [serve(queue, lambda chain: handled.append(chain) or 0) for _ in range(4)]
    assert answers == [True, True, True, False]
    assert len(handled) == CHAINS


@pytest.mark.parametrize("in_c", [True, False], ids=["in C", "by the methods"])
def test_a_call_of_a_disk_ends(ring, memory, in_c):
    """It handles a few such requests, whoever carries them out, and says that more are left."""

    class Image(RawImage):
        transfer_fd = property(lambda self: self.fileno() if in_c else -1)

    with tempfile.NamedTemporaryFile() as file:
        file.truncate(4096)
        with Image(file.name) as image:
            transport = MmioTransport(
                Block(image, queue_size=SIZE), memory, InterruptCounter(), kick=bool
            )
            registers = MmioDriver(transport)
            registers.negotiate(int(Feature.INDIRECT_DESC) | ring.feature)
            driver = ring.make_driver(memory, 0x1000, SIZE, span=0x100000)
            registers.add_queue(0, driver)
            registers.start()
            memory.write(DATA, struct.pack("<IIQ", 0, 0, 0))
            flood(
                ring,
                memory,
                driver,
                *((DATA, 16, 0), (DATA + 0x1000, 512, WRITE), (DATA + 0x2000, 1, WRITE)),
            )
            queue = transport.device._queues[0]
            walked = []
            while True:
                before = queue.walked
                more = transport.process_queue(0)
                walked.append(queue.walked - before)
                if not more:
                    break
            assert sum(walked) == CHAINS * SIZE
            assert max(walked) <= MAX_WALK + BATCH * SIZE
            assert transport.failure is None


@pytest.fixture
def wire():
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


def test_a_call_that_sends_ends(ring, memory, wire):
    """A batch has a bound, and so has the call that makes several."""
    near, _ = wire
    driver, queue = ring.pair(memory, SIZE, span=0x100000)
    flood(ring, memory, driver, (DATA, HEADER_SIZE + 14, 0))
    assert Departures(queue).send(near.fileno(), 64)[0] == MOST
    transmitter = Transmitter(queue, OwnDescriptor(near.fileno()), Readiness(), NetCounters())
    assert transmitter.process(link_up=True)
    assert queue.walked == 2 * MAX_WALK
    assert transmitter.process(link_up=False)
    assert queue.walked == 3 * MAX_WALK


def test_a_call_that_receives_ends(ring, memory, wire):
    """Also if the driver has only buffers that hold nothing; the frame waits."""
    near, far = wire
    driver, queue = ring.pair(memory, SIZE, span=0x100000)
    flood(ring, memory, driver, (DATA, 1, WRITE))
    far.send(bytes(100))
    arrivals = Arrivals(queue, True, LARGEST)
    arrivals.read(near.fileno(), 64)
    assert arrivals.deliver(True) == (0, 0, 0, 0, 0, MOST)
    assert arrivals.waiting == 1
    counters = NetCounters()
    far.send(bytes(100))
    own = OwnDescriptor(near.fileno())
    receiver = Receiver(queue, own, Readiness(), counters, mergeable=True, mtu=0)
    assert receiver.process(link_up=True)
    assert counters.rx_bad_buffers == MOST
    assert queue.walked == 2 * MAX_WALK
