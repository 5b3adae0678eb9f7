"""A guest's memory, and devices behind registers as a VMM would put them."""

from __future__ import annotations

import pytest

from virtio_devices import MmioTransport, Rng
from virtio_devices.testing import InterruptCounter, MmioDriver
from vm_memory import GuestMemory

MEMORY_SIZE = 0x20000


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
