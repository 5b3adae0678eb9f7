"""A guest's memory, and devices behind registers as a VMM would put them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct

import pytest

from virtio_devices import (
    Block,
    Console,
    ConsoleFeature,
    Feature,
    MmioTransport,
    Net,
    PackedQueue,
    Rng,
    SplitQueue,
)
from virtio_devices.testing import (
    InterruptCounter,
    MmioDriver,
    NetDriver,
    PackedDriver,
    SplitDriver,
)
from vm_memory import GuestMemory

MEMORY_SIZE = 0x20000
ALL_BLOCK_FEATURES = int(Feature.EVENT_IDX | Feature.INDIRECT_DESC) | 0x7FFF


@pytest.fixture
def memory():
    """128 KiB of guest memory at 0, and a page that touches the end of the address space."""
    with GuestMemory.from_ranges([(0, MEMORY_SIZE), (2**64 - 0x1000, 0x1000)]) as memory:
        yield memory


class Ring:
    """One format of rings: the device's side, the driver's side, and the feature bit."""

    def __init__(self, name, queue, driver, feature):
        self.name = name
        self.make_queue = queue
        self.make_driver = driver
        self.feature = feature

    def pair(self, memory, size=4, *, indirect=True, event_idx=False, span=0x10000):
        """A driver at 0x1000 and the device's queue on its rings."""
        driver = self.make_driver(memory, 0x1000, size, span=span, event_idx=event_idx)
        queue = self.make_queue(memory, driver.layout, event_idx=event_idx, indirect=indirect)
        return driver, queue

    def offer(self, driver, address, size, flags=0):
        """Make one descriptor available, whatever it says."""
        if self.name == "split":
            driver.write_descriptor(0, address, size, flags)
            driver.offer(0)
        else:
            driver.offer([(address, size, flags)])


RINGS = (
    Ring("split", SplitQueue, SplitDriver, 0),
    Ring("packed", PackedQueue, PackedDriver, int(Feature.RING_PACKED)),
)


@pytest.fixture(params=RINGS, ids=lambda ring: ring.name)
def ring(request):
    """Each format of rings in turn."""
    return request.param


class Machine:
    """A device behind a virtio-mmio block, with everything that it says recorded."""

    def __init__(self, device, memory):
        self.kicks = []
        self.reports = []
        self.interrupt = InterruptCounter()
        self.transport = MmioTransport(
            device, memory, self.interrupt, kick=self.kicks.append, report=self.reports.append
        )
        self.driver = MmioDriver(self.transport)

    def run(self):
        """What a VMM's loop does: follow kicks until there is no more work."""
        while self.kicks:
            index = self.kicks.pop(0)
            while self.transport.process_queue(index):
                pass

    def poll(self, seconds=0):
        """One round of such a loop: wait for kicks and descriptors that the device names."""
        self.run()
        waits = self.transport.device.readiness
        for fd in select.select(list(waits), [], [], seconds)[0]:
            while self.transport.process_queue(waits[fd]):
                pass


@pytest.fixture
def machine(memory):
    """Makes a Machine for a device, an entropy device unless another is given."""
    return lambda device=None: Machine(device or Rng(), memory)


class Wire:
    """A network backend of sockets: frames with headers, and what was asked of it.

    Attributes:
        far: the other ends; what a test sends there the device receives.
    """

    def __init__(self, queues=1, features=0):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(queues)]
        self.near = [near for near, _ in pairs]
        self.far = [far for _, far in pairs]
        for end in self.near + self.far:
            end.setblocking(False)
        self.features = features
        self.offloads = None
        self.active = None
        self.fails = False

    @property
    def queue_fds(self):
        return [near.fileno() for near in self.near]

    def set_offloads(self, features):
        if self.fails:
            raise OSError(errno.EINVAL, "no such offloads")
        self.offloads = features

    def set_active_queues(self, count):
        if self.fails:
            raise OSError(errno.EINVAL, "no such queues")
        self.active = count

    def arrived(self, queue=0):
        """Everything that the device sent, each with its header."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(self.far[queue].recv(1 << 17))
        return frames

    def close(self):
        for end in self.near + self.far:
            end.close()


@pytest.fixture
def wire():
    """Makes backends, and closes them."""
    wires = []

    def make(*args, **options):
        wires.append(Wire(*args, **options))
        return wires[-1]

    yield make
    for each in wires:
        each.close()


class Network:
    """A network device on a machine, its driver, and the wire between."""

    def __init__(self, machine, driver, wire):
        self.machine = machine
        self.driver = driver
        self.wire = wire

    @property
    def device(self):
        return self.machine.transport.device

    @property
    def counters(self):
        return self.device.counters

    def inject(self, *frames, header=bytes(12), queue=0):
        """Frames from the host's side, and one round of the loop."""
        for frame in frames:
            self.wire.far[queue].send(header + frame)
        self.machine.poll()

    def send(self, *frames, **options):
        self.driver.send(*frames, **options)
        self.machine.run()

    def command(self, number, data):
        """The answer to one command."""
        self.driver.command(number, data)
        self.machine.run()
        (answer,) = self.driver.answers()
        return answer


@pytest.fixture
def network(wire):
    """Makes a Network: `network(features, backend features, queues)`; other options are Net's."""
    with GuestMemory.from_ranges([(0, 0x200000)]) as memory:

        def make(wanted=0, offers=0, queues=1, queue_size=64, **options):
            backend = wire(queues, int(offers))
            machine = Machine(Net(backend, **options), memory)
            driver = NetDriver(machine.driver, memory, 0x1000, queue_size=queue_size)
            driver.start(int(wanted))
            return Network(machine, driver, backend)

        yield make


class Terminal:
    """A console device on a machine, and what its driver and the host see."""

    def __init__(self, machine, memory, features, queue_size, more_queues):
        self.machine = machine
        self.device = machine.transport.device
        self.driver = machine.driver
        accepted = self.driver.negotiate(features)
        all_queues = len(self.device.queue_sizes)
        count = all_queues if accepted & ConsoleFeature.MULTIPORT or more_queues else 2
        self.queues = [
            SplitDriver(memory, 0x1000 + index * 0x20000, queue_size, span=0x20000)
            for index in range(count)
        ]
        for index, queue in enumerate(self.queues):
            self.driver.add_queue(index, queue)
        self.driver.start()

    def write(self, *data, queue=1):
        """One buffer of the guest, and a round of the loop."""
        self.queues[queue].add(data)
        self.kick(queue)

    def post(self, *sizes, queue=0):
        """Empty buffers of the guest, and a round of the loop."""
        for size in sizes:
            self.queues[queue].add(writable=[size])
        self.kick(queue)

    def kick(self, queue):
        self.driver.notify(queue)
        self.machine.poll()

    def arrived(self, queue=0):
        return [used.data for used in self.queues[queue].collect()]


@pytest.fixture
def terminal():
    """Makes a Terminal: `terminal(ports, features)`; other options are Console's."""
    with GuestMemory.from_ranges([(0, 0x200000)]) as memory, contextlib.ExitStack() as stack:

        def make(*ports, features=7, queue_size=16, more_queues=False, **options):
            console = stack.enter_context(Console(*ports, **options))
            machine = Machine(console, memory)
            return Terminal(machine, memory, features, queue_size, more_queues)

        yield make


@pytest.fixture
def pipe():
    """Makes pipes: (reading end, writing end), closed in the end unless they are before."""
    ends = []

    def make(*, blocking=False):
        reader, writer = os.pipe()
        os.set_blocking(reader, blocking)
        os.set_blocking(writer, blocking)
        ends.extend((reader, writer))
        return reader, writer

    yield make
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


class DiskGuest:
    """A driver of a block device: one request at a time, in any layout."""

    def __init__(self, machine, memory, features, *, size=64, base=0x1000, span=0x1F000, queue=0):
        self.machine = machine
        self.features = machine.driver.negotiate(features)
        self.queue = SplitDriver(
            memory, base, size, span=span, event_idx=bool(self.features & Feature.EVENT_IDX)
        )
        machine.driver.add_queue(queue, self.queue)
        machine.driver.start()
        self._index = queue

    def submit(self, readable, writable, **options):
        """A chain of these buffers; its bytes when it came back, None if it did not."""
        self.queue.add(readable, writable, **options)
        self.machine.driver.notify(self._index)
        self.machine.run()
        used = self.queue.collect()
        return used[0].data if used else None

    def request(self, kind, sector=0, data=b"", room=0):
        """(status, data) of a request in the layout that Linux uses."""
        header = struct.pack("<IIQ", kind, 0, sector)
        answer = self.submit([header, data] if data else [header], [room, 1] if room else [1])
        return answer[-1], answer[:-1]


@pytest.fixture
def disk(memory, machine):
    """Starts a block device on a backend: its driver."""

    def start(backend, features=ALL_BLOCK_FEATURES, **options):
        return DiskGuest(machine(Block(backend, **options)), memory, features)

    return start
