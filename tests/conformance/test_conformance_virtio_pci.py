"""A driver guest and a virtio-pci device: ioeventfd in, irqfd out, on each hypervisor."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import guests
import pytest

from kvm_ioctls import IoOut, MmioWrite
from virtio_devices import Net, PciTransport, Rng
from virtio_devices.testing import PciDriver, SplitDriver
from vm_allocator import Range, SystemAllocator
from vm_memory import GuestMemory, GuestRegion
from vmm_reference.bus import Bus
from vmm_reference.event_loop import EventLoop
from vmm_reference.pci import PciSegment

if TYPE_CHECKING:
    from machine import Machine

    from virtio_devices import Device

VECTOR = 0x51
READY, HANDLED = 0xE1, 0xE0
BAR, OTHER_BAR = 0xD000_0000, 0xD100_0000
QUEUE = 0x20000  # above everything that `machine` has in memory
PIN = 10


class Registers:
    """The device as the guest's processor would reach it."""

    def __init__(self, segment, mmio):
        self.segment = segment
        self.mmio = mmio
        self.base = 0

    def move(self, base):
        for offset, value, size in ((4, 0, 2), (0x10, base, 8), (4, 6, 2)):
            data = memoryview(bytearray(value.to_bytes(size, "little")))
            self.write_config(offset, data)
        self.base = base

    def read_config(self, offset, data):
        self.segment.bus.read_config(1 << 3, offset, data)

    def write_config(self, offset, data):
        self.segment.bus.write_config(1 << 3, offset, data)

    def read(self, offset, data):
        self.mmio.read(self.base + offset, data)

    def write(self, offset, data):
        self.mmio.write(self.base + offset, data)


class Bench:
    """A machine with a device on its PCI bus."""

    def __init__(self, machine: Machine, loop: EventLoop, device: Device):
        self.machine = machine
        self.memory = GuestMemory([GuestRegion(0, machine.memory)])
        mmio = Bus("memory")
        allocator = SystemAllocator(
            [(0, len(machine.memory))],
            platform_mmio=Range(0xFED0_0000, 0xFEDF_FFFF),
            pci_mmio32=Range(0xC000_0000, 0xFEAF_FFFF),
            pci_mmio64=Range(1 << 32, (1 << 36) - 1),
        )
        self.segment = PciSegment(machine.vm, Bus("ports", 1 << 16), mmio, allocator)
        self.segment.add_virtio(device, self.memory, loop, print)
        self.registers = Registers(self.segment, mmio)
        self.registers.move(BAR)
        self.driver = PciDriver(self.registers)
        self.queue = SplitDriver(self.memory, QUEUE, 8)

    def start(self, *, msix: bool) -> None:
        if msix:
            self.driver.enable_msix()
            self.driver.set_vector(1, 0xFEE0_0000, VECTOR)
        self.driver.negotiate()
        self.driver.add_queue(0, self.queue, vector=1 if msix else 0xFFFF)
        self.driver.start()

    def next_handled(self) -> int:
        """The count that the guest's handler tells; a write to the device must be no exit."""
        match self.machine.run():
            case IoOut(port, data=data) if port == HANDLED:
                return int.from_bytes(data, "little")
            case MmioWrite(address):
                pytest.fail(f"the kick at {address:#x} was an exit")
            case other:
                pytest.fail(f"{other!r} at {self.machine.where()}")

    def collect(self) -> bytes:
        [used] = self.queue.collect()
        return used.data


@contextlib.contextmanager
def on_a_bench(machine, device):
    """A bench with `device`, which works meanwhile."""
    errors = []
    with EventLoop(errors.append) as loop:
        made = Bench(machine, loop, device)
        loop.start()
        yield made
        loop.stop()
        made.segment.close()
        machine.vcpu.close()  # which borrow the memory
        machine.vm.close()
        made.memory.close()
    assert errors == []


@pytest.fixture
def bench(irq_machine):
    """A machine with an entropy device."""
    with on_a_bench(irq_machine, Rng(lambda size: b"\x5a" * size)) as made:
        yield made


def test_a_guest_kicks_and_is_interrupted(bench):
    """Three requests: each kick is an ioeventfd, each answer a message through an irqfd."""
    bench.start(msix=True)
    kick = BAR + PciTransport.notify_offset(0)
    bench.machine.long_mode(guests.KICK_AND_WAIT, rdi=kick)
    bench.machine.handler(VECTOR, guests.EOI_HANDLER)
    for count in (1, 2, 3):
        bench.queue.add(writable=[16])
        if count == 1:
            assert bench.machine.next_out()[0] == READY
        assert bench.next_handled() == count
        assert bench.collect() == b"\x5a" * 16


def test_a_moved_function_is_kicked_at_its_new_place(bench):
    """The ioeventfd follows the BAR."""
    bench.start(msix=True)
    bench.registers.move(OTHER_BAR)
    kick = OTHER_BAR + PciTransport.notify_offset(0)
    bench.machine.long_mode(guests.KICK_AND_WAIT, rdi=kick)
    bench.machine.handler(VECTOR, guests.EOI_HANDLER)
    bench.queue.add(writable=[4])
    assert bench.machine.next_out()[0] == READY
    assert bench.next_handled() == 1
    assert bench.collect() == b"\x5a" * 4


def test_the_pin_interrupts_by_its_line(bench):
    """Without MSI-X, the answer raises the shared line of the slot, GSI 17."""
    bench.start(msix=False)
    pin = 17
    bench.machine.long_mode(guests.IOAPIC_LOOP, rbx=0x10 + 2 * pin, rcx=VECTOR)
    bench.machine.handler(VECTOR, guests.EOI_HANDLER)
    assert bench.machine.next_out()[0] == READY
    bench.queue.add(writable=[4])
    bench.driver.notify(0)
    assert bench.next_handled() == 1
    assert bench.driver.acknowledge() == 1


def test_the_machine_s_lines_survive_a_message(bench):
    """The table with the message still leads every line to its pin."""
    bench.start(msix=True)
    bench.machine.long_mode(guests.IOAPIC_LOOP, rbx=0x10 + 2 * PIN, rcx=VECTOR)
    bench.machine.handler(VECTOR, guests.EOI_HANDLER)
    assert bench.machine.next_out()[0] == READY
    bench.machine.vm.set_irq_line(PIN, True)
    assert bench.next_handled() == 1


class Wire:
    """A network backend without offloads, whose other end is a socket."""

    features = 0

    def __init__(self):
        self._near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._near.setblocking(False)
        self.far.settimeout(10)
        self.queue_fds = (self._near.fileno(),)

    def set_offloads(self, features):
        assert features == 0

    def set_active_queues(self, count):
        assert count == 1

    def close(self):
        self._near.close()
        self.far.close()


def test_a_network_card_is_kicked_and_wakes_its_guest(irq_machine):
    """A frame goes out by an ioeventfd; the wire brings another, which is a message's interrupt."""
    header, arrives = bytes(10) + b"\1\0", b"to the guest".ljust(60)
    leaves = b"from the guest".ljust(60)
    with (
        contextlib.closing(Wire()) as wire,
        on_a_bench(irq_machine, Net(wire)) as bench,
        ThreadPoolExecutor(1) as host,
    ):
        receive, send = bench.queue, SplitDriver(bench.memory, QUEUE + 0x10000, 8)
        bench.driver.enable_msix()
        bench.driver.set_vector(1, 0xFEE0_0000, VECTOR)
        bench.driver.negotiate()
        bench.driver.add_queue(0, receive, vector=1)
        bench.driver.add_queue(1, send, vector=0xFFFF)
        bench.driver.start()
        receive.add(writable=[2048])
        send.add([bytes(12), leaves])
        bench.machine.long_mode(guests.KICK_AND_WAIT, rdi=BAR + PciTransport.notify_offset(1))
        bench.machine.handler(VECTOR, guests.EOI_HANDLER)
        assert bench.machine.next_out()[0] == READY
        answered = host.submit(lambda: (wire.far.recv(2048), wire.far.send(bytes(12) + arrives)))
        assert bench.next_handled() == 1
        assert answered.result()[0] == bytes(12) + leaves
        assert bench.collect() == header + arrives
