"""A network device against two lists: what went in at one end comes out at the other, in order."""

from __future__ import annotations

import select
import socket

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from virtio_devices import Feature, MmioTransport, Net, NetFeature
from virtio_devices.testing import InterruptCounter, MmioDriver, NetDriver
from vm_memory import GuestMemory

HEADER = bytes(12)
RING = 16


class SlowWire:
    """A backend whose sockets hold a few frames only."""

    features = 0

    def __init__(self):
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.near, self.far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    @property
    def queue_fds(self):
        return [self.near.fileno()]

    def set_offloads(self, features):
        pass

    def set_active_queues(self, count):
        pass


class NetModel(RuleBasedStateMachine):
    """The driver, the host and the loop take steps in any order; nobody waits for anybody."""

    @initialize(mergeable=st.booleans(), event_idx=st.booleans())
    def start(self, mergeable, event_idx):
        self.memory = GuestMemory.from_ranges([(0, 0x200000)])
        self.wire = SlowWire()
        self.kicks = []
        self.interrupt = InterruptCounter()
        self.device = Net(self.wire)
        self.transport = MmioTransport(
            self.device, self.memory, self.interrupt, kick=self.kicks.append
        )
        self.driver = NetDriver(
            MmioDriver(self.transport), self.memory, 0x1000, queue_size=RING, span=0x40000
        )
        self.mergeable = mergeable
        wanted = int(NetFeature.MRG_RXBUF) * mergeable | int(Feature.EVENT_IDX) * event_idx
        self.driver.start(wanted)
        self.to_guest, self.from_guest = [], []
        self.number = 0

    def teardown(self):
        self.wire.near.close()
        self.wire.far.close()
        self.transport.reset()
        self.memory.close()

    def frame(self, size):
        self.number += 1
        return self.number.to_bytes(14, "little").ljust(size, b"\x5a")

    @precondition(lambda self: len(self.driver.queues[0].in_flight) < RING)
    @rule(size=st.integers(100, 300))  # all of them together hold the largest frame
    def post_a_buffer(self, size):
        self.driver.post(1, size if self.mergeable else 2000)

    @precondition(lambda self: len(self.driver.queues[1].in_flight) <= RING // 2 - 1)
    @rule(size=st.integers(14, 1500))
    def send(self, size):
        frame = self.frame(size)
        self.driver.send(frame)
        self.from_guest.append(HEADER + frame)

    @rule(size=st.integers(14, 1500))
    def inject(self, size):
        frame = self.frame(size)
        try:
            self.wire.far.send(HEADER + frame)
        except BlockingIOError:
            return
        self.to_guest.append(frame)

    @rule()
    def take_from_the_wire(self):
        try:
            assert self.wire.far.recv(1 << 16) == self.from_guest.pop(0)
        except BlockingIOError:
            pass
        except IndexError:
            raise AssertionError("a frame that was not sent") from None

    @rule()
    def collect(self):
        received = [data for _, data in self.driver.receive()]
        assert received == self.to_guest[: len(received)]
        del self.to_guest[: len(received)]
        self.driver.sent()

    @rule()
    def loop(self):
        waits = self.device.readiness
        ready = select.select(list(waits), [], [], 0)[0]
        for index in [*self.kicks, *(waits[fd] for fd in ready)]:
            while self.transport.process_queue(index):
                pass
        self.kicks.clear()

    @invariant()
    def nothing_is_dropped(self):
        if not hasattr(self, "device"):
            return
        assert self.transport.failure is None
        counters = self.device.counters
        dropped = (counters.rx_malformed, counters.rx_too_large, counters.rx_bad_buffers)
        assert dropped == (0, 0, 0)
        assert (counters.tx_malformed, counters.tx_refused) == (0, 0)


TestNetModel = NetModel.TestCase
TestNetModel.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
