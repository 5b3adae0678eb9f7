"""The PCI part of a machine as a whole, with virtio devices in its slots."""

from __future__ import annotations

import contextlib
import errno
import os
import threading

import pytest

from kvm_ioctls import KvmError, Mmio
from virtio_devices import Feature, PciTransport, Rng, VirtioUsageError
from virtio_devices.testing import PciDriver, SplitDriver
from vm_allocator import GsiAllocator, Range, SystemAllocator
from vm_memory import GuestMemory
from vmm_reference.bus import Bus
from vmm_reference.errors import HostError
from vmm_reference.event_loop import EventLoop
from vmm_reference.pci import PciSegment

GIB = 1 << 30
ECAM = 0xFEB0_0000
WAIT_S = 10


class Machine:
    """A virtual machine that takes what it is told, up to `most` ioeventfds."""

    def __init__(self, most=1000):
        self.most = most
        self.ioevents = {}
        self.irqfds = {}
        self.messages = {}
        self.levels = []

    def register_ioevent(self, fd, address, length=0, datamatch=None):
        if len(self.ioevents) == self.most:
            raise KvmError(errno.ENOSPC, "KVM_IOEVENTFD")
        assert (length, datamatch) == (0, None)
        self.ioevents[address.address] = fd

    def unregister_ioevent(self, fd, address):
        assert self.ioevents.pop(address.address) == fd

    def register_irqfd(self, fd, gsi):
        self.irqfds[gsi] = fd

    def unregister_irqfd(self, fd, gsi):
        assert self.irqfds.pop(gsi) == fd

    def set_gsi_routing(self, entries):
        self.messages = {
            entry.gsi: (entry.u.msi.address_lo, entry.u.msi.data)
            for entry in entries
            if entry.type == 2
        }

    def set_irq_line(self, gsi, active):
        self.levels.append((gsi, active))


class OnBus:
    """A function as the guest reaches it: ECAM and memory; its writes may hit an ioeventfd."""

    def __init__(self, board, slot):
        self.board = board
        self.start = ECAM + (slot << 15)

    @property
    def base(self):
        data = memoryview(bytearray(8))
        self.read_config(0x10, data)
        return int.from_bytes(data, "little") & ~0xF

    def read_config(self, offset, data):
        self.board.mmio.read(self.start + offset, data)

    def write_config(self, offset, data):
        self.board.mmio.write(self.start + offset, data)

    def read(self, offset, data):
        self.board.mmio.read(self.base + offset, data)

    def write(self, offset, data):
        address = self.base + offset
        if address in self.board.vm.ioevents:
            os.eventfd_write(self.board.vm.ioevents[address], 1)
        else:
            self.board.mmio.write(address, data)


class Board:
    """Buses, memory, a running event loop and a PCI segment; a context manager."""

    def __init__(self, vm, last_gsi=4095):
        self.vm = vm
        self.stack = contextlib.ExitStack()
        self.errors = []
        self.memory = self.stack.enter_context(GuestMemory.from_ranges([(0, 0x20000)]))
        self.pio, self.mmio = Bus("ports", 1 << 16), Bus("memory")
        self.allocator = SystemAllocator(
            [(0, 0x20000)],
            platform_mmio=Range(0xFED0_0000, 0xFEDF_FFFF),
            pci_mmio32=Range(0xC000_0000, ECAM - 1),
            pci_mmio64=Range(4 * GIB, 68 * GIB - 1),
            gsis=GsiAllocator(last_gsi=last_gsi),
        )
        self.loop = self.stack.enter_context(EventLoop(self.errors.append))
        self.segment = PciSegment(vm, self.pio, self.mmio, self.allocator)
        self.stack.callback(self.segment.close)
        self.stack.callback(self.loop.stop)
        self.loop.start()

    def add(self, device=None):
        return self.segment.add_virtio(device or Rng(), self.memory, self.loop, self.errors.append)

    def settle(self):
        """Wait until the loop has done what it was told so far."""
        for _ in range(2):
            done = threading.Event()
            self.loop.call_soon(done.set)
            assert done.wait(WAIT_S)
        assert self.errors == []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()


@pytest.fixture
def board():
    with Board(Machine()) as made:
        yield made


def bring_up(board, slot=1, base=0x1000):
    """A driver with MSI-X and queue 0, vector 1."""
    driver = PciDriver(OnBus(board, slot))
    driver.enable_msix()
    driver.set_vector(1, 0xFEE0_0000, 0x31)
    driver.negotiate(int(Feature.EVENT_IDX))
    queue = SplitDriver(board.memory, base, 8, span=0x4000, event_idx=True)
    driver.add_queue(0, queue, vector=1)
    driver.start()
    return driver, queue


def test_a_device_works_through_the_buses(board):
    """ECAM, memory, ioeventfd, event loop, irqfd: a request comes back with an interrupt."""
    board.add()
    driver, queue = bring_up(board)
    queue.add(writable=[64])
    assert queue.needs_kick()
    driver.notify(0)
    board.settle()
    [used] = queue.collect()
    assert len(used.data) == 64
    [gsi] = board.vm.messages
    assert board.vm.messages[gsi] == (0xFEE0_0000, 0x31)
    assert os.eventfd_read(board.vm.irqfds[gsi]) == 1
    assert board.vm.levels == []


def test_without_msix_the_line_is_driven(board):
    """The slot's line goes up, and down when the driver has read ISR status."""
    board.add()
    driver = PciDriver(OnBus(board, 1))
    driver.negotiate()
    queue = SplitDriver(board.memory, 0x1000, 8)
    driver.add_queue(0, queue)
    driver.start()
    queue.add(writable=[1])
    driver.notify(0)
    board.settle()
    assert board.vm.levels == [(17, True)]
    assert driver.acknowledge() == 1
    assert board.vm.levels == [(17, True), (17, False)]


def test_devices_share_nothing(board):
    """Slots, addresses, GSIs and ioeventfds of their own."""
    functions = [board.add() for _ in range(3)]
    assert board.segment.bus.slots() == (0, 1, 2, 3)
    bases = [function.memory_ranges()[0][0] for function in functions]
    assert len(set(bases)) == 3
    assert set(board.vm.ioevents) == {base + PciTransport.notify_offset(0) for base in bases}
    assert sorted(board.vm.irqfds) == [24, 25, 26, 27, 28, 29]


def test_ioeventfds_follow_the_registers(board):
    """A moved function is kicked at its new place, and only there."""
    board.add()
    driver, queue = bring_up(board)
    old = next(iter(board.vm.ioevents))
    driver.write_config_space(4, 0, 2)
    assert board.vm.ioevents == {}
    driver.write_config_space(0x10, 0xD000_0000, 4)
    driver.write_config_space(0x14, 0, 4)
    driver.write_config_space(4, 6, 2)
    assert list(board.vm.ioevents) == [0xD000_0000 + PciTransport.notify_offset(0)]
    assert old not in board.vm.ioevents
    queue.add(writable=[8])
    driver.notify(0)
    board.settle()
    assert len(queue.collect()) == 1


def test_a_device_works_without_ioeventfds():
    """When the hypervisor takes no more, a kick is an exit."""
    with Board(Machine(most=0)) as board:
        board.add()
        driver, queue = bring_up(board)
        queue.add(writable=[8])
        driver.notify(0)
        board.settle()
        assert len(queue.collect()) == 1


class Waiting(Rng):
    """Has work when a pipe can be read, and waits for it only while it is active."""

    def __init__(self, fd):
        super().__init__()
        self.fd = fd
        self.seen = []
        self.readiness = {}

    def activate(self, memory, queues, interrupt):
        super().activate(memory, queues, interrupt)
        self.readiness = {self.fd: 0}

    def process_queue(self, _index):
        if self.readiness and (data := os.read(self.fd, 100)):
            self.seen.append(data)
        return False

    def reset(self):
        super().reset()
        self.readiness = {}


def test_what_a_device_waits_for_is_watched_while_it_says_so(board, pipe):
    """From activation to reset its descriptor leads to its queue."""
    device = Waiting(pipe[0])
    board.add(device)
    os.write(pipe[1], b"early")
    board.settle()
    assert device.seen == []
    driver, _queue = bring_up(board)
    board.settle()
    assert device.seen == [b"early"]
    driver.write_status(0)
    board.settle()
    os.write(pipe[1], b"late")
    board.settle()
    assert device.seen == [b"early"]


class Insatiable(Rng):
    """Wants to be called again, three times."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def process_queue(self, _index):
        self.calls += 1
        return self.calls < 3


def test_a_device_that_is_not_done_is_called_again(board):
    """Without another kick of the guest."""
    device = Insatiable()
    board.add(device)
    driver, _queue = bring_up(board)
    driver.notify(0)
    for _ in range(3):
        board.settle()
    assert device.calls == 3


def test_closing_gives_everything_back():
    """Descriptors, irqfds, ioeventfds, addresses, GSIs; the device was reset."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    with Board(Machine()) as board:
        function = board.add()
        bring_up(board)
        board.loop.stop()
        board.segment.close()
        board.segment.close()
        assert function.transport.status == 0
        assert (board.vm.ioevents, board.vm.irqfds, board.vm.messages) == ({}, {}, {})
        assert board.segment.bus.slots() == (0,)
        assert board.allocator.gsis.allocate_msi() == 24
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_device_that_has_no_room_leaves_nothing():
    """No GSI left: one sentence, and the slot stays free."""
    with Board(Machine(), last_gsi=26) as board:
        board.add()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
        with pytest.raises(HostError, match="no room for a PCI device"):
            board.add()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        assert board.segment.bus.slots() == (0, 1)
        assert sorted(board.vm.irqfds) == [24, 25]


def test_a_device_that_cannot_be_leaves_nothing(board):
    """A device's own mistake stays its own error."""
    device = Rng()
    device.queue_sizes = (3,)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    with pytest.raises(VirtioUsageError):
        board.add(device)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert board.vm.irqfds == {}


def test_acpi_says_what_is_there(board):
    """The windows without the ECAM, and a route for each pin of each slot."""
    host = board.segment.acpi()
    assert host.ecam == ECAM
    assert host.memory32 == (0xC000_0000, ECAM - 0xC000_0000)
    assert host.memory64 == (4 * GIB, 64 * GIB)
    assert len(host.routes) == 128
    assert (1, 1, 17) in host.routes
    assert Mmio(host.ecam).address == ECAM


def test_lines_and_addresses_are_taken(board):
    """Nobody else is given the shared lines, the ECAM or the ports."""
    gsis = board.allocator.gsis
    assert {gsis.allocate_pin() for _ in range(15)} == set(range(5, 24)) - {16, 17, 18, 19}
    assert board.allocator.physical.find(ECAM).owner == "PCI ECAM"
    assert board.allocator.pio.find(0xCFC).owner == "PCI configuration"
