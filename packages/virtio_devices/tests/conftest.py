"""A guest's memory, and devices behind registers as a VMM would put them."""

from __future__ import annotations

import struct

import pytest

from virtio_devices import Block, Feature, MmioTransport, Rng
from virtio_devices.testing import InterruptCounter, MmioDriver, SplitDriver
from vm_memory import GuestMemory

MEMORY_SIZE = 0x20000
ALL_BLOCK_FEATURES = int(Feature.EVENT_IDX | Feature.INDIRECT_DESC) | 0x7FFF


@pytest.fixture
def memory():
    """128 KiB of guest memory at 0, and a page that touches the end of the address space."""
    with GuestMemory.from_ranges([(0, MEMORY_SIZE), (2**64 - 0x1000, 0x1000)]) as memory:
        yield memory


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
