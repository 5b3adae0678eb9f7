"""A guest's memory, and devices behind registers as a VMM would put them."""

from __future__ import annotations

import pytest

from virtio_devices import Feature, MmioTransport, PackedQueue, Rng, SplitQueue
from virtio_devices.testing import InterruptCounter, MmioDriver, PackedDriver, SplitDriver
from vm_memory import GuestMemory

MEMORY_SIZE = 0x20000


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


@pytest.fixture
def machine(memory):
    """Makes a Machine for a device, an entropy device unless another is given."""
    return lambda device=None: Machine(device or Rng(), memory)
