"""A guest that does anything, told by bytes; and what must hold whatever it does.

An input is a script: its bytes choose steps, and what each step writes where. Values near those
that are right come more often than others, so that a script gets further than noise. The rules:

- reading and writing registers, and processing queues, raise nothing; what goes wrong is reported
  as a `DriverViolation`, or as a `DeviceFailed` if the host failed the device;
- memory is accessed inside of its regions. They are fenced in by pages that nobody may touch: an
  access outside ends the process, and one by a system call is EFAULT, which `refuse_fault` catches;
- what one call of `process_queue` does is bounded, as a number of calls of functions;
- after a reset the device works as a new one does.
"""

from __future__ import annotations

import errno
import select
import struct
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from _script import Choices

from virtio_devices import (
    MMIO_SIZE,
    Device,
    DeviceFailed,
    DeviceStatus,
    DeviceViolation,
    DriverViolation,
    Feature,
    MmioTransport,
    VirtioError,
    VirtioUsageError,
)
from virtio_devices.testing import (
    InterruptCounter,
    MmioDriver,
    PackedDriver,
    SplitDriver,
    UsedBuffer,
)
from vm_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Buffers = tuple[int, Sequence[bytes], Sequence[int]]

#: Each queue has its rings and buffers in a piece of this size, from here on.
BASE, SPAN = 0x1000, 0xC000

#: Where scripts put indirect tables, behind the queues; and where memory ends.
TABLE, END = 0x6C000, 0x70000

#: Regions that touch, and one at the end of all addresses. Those of the first two queues have a
#: page each: a buffer can lie in more of them than C code borrows at once.
_SMALL = BASE + 2 * SPAN
RANGES = (
    *((start, 0x1000) for start in range(0, _SMALL, 0x1000)),
    (_SMALL, END - _SMALL),
    (2**64 - 0x1000, 0x1000),
)

#: Entries of a long queue, whose chains can have more pieces than one system call takes.
LONG = 1024

#: Steps of one script.
MAX_STEPS = 100

#: Calls of functions in one call of `process_queue`. The devices need less than a tenth of it; a
#: fuzzer that watches branches makes a call for each of them.
MAX_WORK = 100_000

_ADDRESSES = (TABLE, TABLE + 16, 0x68000, 0xFFF8, END - 16, END, 2**64 - 8, 2**64 - 0x1000)
_LENGTHS = (0, 1, 8, 12, 16, 17, 32, 48, 64, 512, 0x1000, 0x8000, 0x10000, 2**31, 2**32 - 1)
_MARKS = (1 << 7, 1 << 7, 1 << 15, 0, 1 << 7 | 1 << 15)  # AVAIL and USED (virtio 1.2 §2.8.1)
_STATUSES = (0, 1, 3, 11, 15, 79, 128, 143)
_RING_FEATURES = tuple(
    int(bit)
    for bit in (Feature.RING_PACKED, Feature.EVENT_IDX, Feature.INDIRECT_DESC, Feature.RING_RESET)
)


class Host(Protocol):
    """A device with what the host has behind it."""

    @property
    def device(self) -> Device:
        """The device."""

    def request(self, choices: Choices) -> Buffers:
        """What a driver would ask for: a queue, readable buffers, sizes of writable ones."""

    def act(self, choices: Choices) -> None:
        """Something happens on the host's side."""

    def prove(self, guest: Guest) -> None:
        """The host is well again, and a guest that keeps the rules gets what it asks for."""

    def close(self) -> None:
        """Give everything back."""


class RegisterBlock(Protocol):
    """What stands on a bus."""

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data`."""

    def write(self, offset: int, data: memoryview) -> None:
        """Take `data`."""


class Bus(Protocol):
    """A transport with a device behind it.

    Attributes:
        transport: the transport.
        driver: a driver that keeps the rules.
        kicks: queues that the driver notified.
        config_start: where the device's configuration space is among the registers.
    """

    transport: Any
    driver: Any
    kicks: list[int]
    config_start: int

    def access(self, choices: Choices) -> None:
        """Read or write anything."""


class MmioBlock:
    """A `Bus`: a block of registers (virtio 1.2 §4.2.2)."""

    config_start = 0x100
    _registers = (
        *(0x000, 0x004, 0x008, 0x00C, 0x010, 0x014, 0x020, 0x024, 0x030, 0x034, 0x038, 0x044),
        *(0x050, 0x060, 0x064, 0x070, 0x070, 0x080, 0x084, 0x090, 0x094, 0x0A0, 0x0A4, 0x0AC),
        *(0x0B0, 0x0B4, 0x0B8, 0x0BC, 0x0C0, 0x0FC, 0x100, 0x108, 0x120, MMIO_SIZE - 1),
    )

    def __init__(self, host: Host, memory: GuestMemory, _choices: Choices) -> None:
        self.kicks: list[int] = []
        self.transport = MmioTransport(
            host.device, memory, InterruptCounter(), kick=self.kicks.append, report=check_report
        )
        self.driver = MmioDriver(self.transport)

    def access(self, choices: Choices) -> None:
        """Any width at any offset."""
        offset = choices.near(self._registers, 2) % MMIO_SIZE
        size = choices.near((4, 4, 4, 4, 1, 2, 8), 1) or 1
        access(self.transport, offset, size, choices)


class Guest:
    """Does with one device what a script says.

    Args:
        host: the device.
        bus: where its registers are.
        memory: the guest's memory, of `RANGES`.
        choices: the script.
        accesses: how many of the steps are any accesses of any registers.
    """

    def __init__(
        self, host: Host, bus: Bus, memory: GuestMemory, choices: Choices, accesses: int
    ) -> None:
        self.choices = choices
        self.memory = memory
        self.queues: dict[int, Any] = {}
        self._host = host
        self._transport, self._driver, self._kicks = bus.transport, bus.driver, bus.kicks
        self._config_start = bus.config_start
        self._steps: tuple[Callable[[], None], ...] = (
            *(self._ask, self._kick) * 3,
            *(self._write_descriptor, self._offer, self._write_table, self._write_rings) * 2,
            *(lambda: bus.access(choices),) * accesses,
            lambda: host.act(choices),
            self._process,
            self._poll,
            self._collect,
            self._access_config,
            self._write_status,
            self._reset_queue,
            self._start,
        )

    def run(self) -> None:
        """Bring the device up, follow the script, and let the device prove itself afterwards."""
        self._start()
        for _ in range(MAX_STEPS):
            if not self.choices.left:
                break
            was_broken = self._is_broken()
            self._steps[self.choices.below(len(self._steps))]()
            if was_broken and self._is_broken():  # nothing can come of it any more
                self._start()
        self._transport.reset()
        assert self._transport.status == 0
        assert dict(self._transport.device.readiness) == {}
        self.choices = Choices(b"")
        self._start()
        self._host.prove(self)

    def fetch(self, index: int) -> list[UsedBuffer]:
        """What comes back in a queue; the device must not have failed.

        Most devices answer at once, others when a descriptor says so.
        """
        self._driver.notify(index)
        self._settle()
        for seconds in (0, 0, 0.2):
            self._poll(seconds)
            assert self._transport.failure is None, self._transport.failure
            found = list(self.queues[index].collect())
            if found:
                break
        return found

    def _is_broken(self) -> bool:
        failed = self._transport.failure is not None
        assert failed == bool(self._transport.status & DeviceStatus.DEVICE_NEEDS_RESET)
        return failed

    # Steps that a driver might take

    def _start(self) -> None:
        """As the rules want it, with any features; this must work at any time."""
        rings = sum(bit * self.choices.below(2) for bit in _RING_FEATURES)
        wanted = self._transport.device.features & ~self.choices.near((0, 0, 0), 4)
        try:
            accepted = self._driver.negotiate(rings | wanted)
        except DeviceViolation:  # some features do not go without others
            accepted = self._driver.negotiate(rings)
        self.queues.clear()
        for index in range(len(self._transport.device.queue_sizes)):
            if self.choices.below(16) != 15:
                self._add_queue(index, accepted)
        self._driver.start()
        assert self._transport.failure is None, self._transport.failure

    def _add_queue(self, index: int, features: int) -> None:
        make = PackedDriver if features & Feature.RING_PACKED else SplitDriver
        size = (16, 8, 4, 2, 1, LONG)[self.choices.below(6)]
        size = min(size, self._transport.device.queue_sizes[index])
        event_idx = bool(features & Feature.EVENT_IDX)
        queue = make(self.memory, BASE + SPAN * index, size, span=SPAN, event_idx=event_idx)
        self._driver.add_queue(index, queue)
        self.queues[index] = queue

    def _ask(self) -> None:
        for _ in range(1 + self.choices.below(4)):
            self._add_request()
        if self.choices.below(2):
            self._kick()

    def _add_request(self) -> None:
        index, readable, writable = self._host.request(self.choices)
        if index in self.queues:
            indirect = bool(self.choices.below(2))
            if self.choices.below(4) == 3:
                readable = in_pieces(readable)
            with suppress(VirtioUsageError, MemoryError):
                self.queues[index].add(readable, writable, indirect=indirect)

    def _kick(self) -> None:
        for index in self.queues:
            self._driver.notify(index)
        self._settle()

    def _settle(self) -> None:
        """What a VMM's loop does; a device may have more to do as long as it likes."""
        while self._kicks:
            index = self._kicks.pop(0)
            for _ in range(4):
                if not self._process_queue(index):
                    break

    def _process(self) -> None:
        """Nobody kicked, or there is no such queue."""
        self._process_queue(self.choices.below(len(self._transport.device.queue_sizes) + 2))

    def _poll(self, seconds: float = 0) -> None:
        waits = self._transport.device.readiness
        for descriptor in select.select(list(waits), [], [], seconds if waits else 0)[0]:
            self._process_queue(waits[descriptor])

    def _process_queue(self, index: int) -> bool:
        with bounded_work():
            return bool(self._transport.process_queue(index))

    def _collect(self) -> None:
        for queue in self.queues.values():
            with suppress(DeviceViolation):  # the script may have written into the rings
                queue.collect()
            if self.choices.below(2):
                queue.disable_interrupts()
            else:
                queue.enable_interrupts(1 + self.choices.below(4))

    def _access_config(self) -> None:
        offset, size = self.choices.below(80), 1 + self.choices.below(8)
        access(self._transport, self._config_start + offset, size, self.choices)

    def _write_status(self) -> None:
        self._driver.write_status(self.choices.near(_STATUSES, 1))

    def _reset_queue(self) -> None:
        """One queue alone, if the device has that; the queue comes back or not."""
        index = self.choices.below(len(self._transport.device.queue_sizes))
        with suppress(DeviceViolation):
            self._driver.reset_queue(index)
            self.queues.pop(index, None)
            self._add_queue(index, self._transport.features)

    # Steps that no driver should take

    def _write_descriptor(self) -> None:
        queue = self._a_queue()
        if queue is None:
            return
        address, size, flags = self._buffer()
        if isinstance(queue, PackedDriver):
            flags |= _MARKS[self.choices.below(len(_MARKS))]
        index = self.choices.below(queue.layout.size)
        queue.write_descriptor(index, address, size, flags, self._small())

    def _offer(self) -> None:
        queue = self._a_queue()
        if isinstance(queue, PackedDriver):
            elements = [self._buffer() for _ in range(1 + self.choices.below(3))]
            queue.offer(elements, self._small())
        elif queue is not None:
            queue.offer(self._small())

    def _write_table(self) -> None:
        entries = (
            struct.pack("<QIHH", *self._buffer(), self._small())
            for _ in range(self.choices.near((1, 2, 3), 1) % 20)
        )
        self.memory.write(TABLE, b"".join(entries))

    def _write_rings(self) -> None:
        queue = self._a_queue()
        if queue is not None:
            address = queue.layout.areas[self.choices.below(3)] + self.choices.integer(1)
            self.memory.write(address, self.choices.bytes(self.choices.below(24)))

    def _a_queue(self) -> Any:
        choice = self.choices.below(len(self.queues) or 1)
        return list(self.queues.values())[choice] if self.queues else None

    def _buffer(self) -> tuple[int, int, int]:
        address = self.choices.near((*_ADDRESSES, BASE, BASE + SPAN), 8)
        size = self.choices.near(_LENGTHS, 4)
        return address, size, self.choices.near(range(8), 2)

    def _small(self) -> int:
        return self.choices.near(range(17), 2)


def in_pieces(buffers: Sequence[bytes]) -> list[bytes]:
    """The same bytes in as many buffers of 16 as that takes."""
    data = b"".join(buffers)
    return [data[start : start + 16] for start in range(0, len(data), 16)]


def access(block: RegisterBlock, offset: int, size: int, choices: Choices) -> None:
    """Read, or write what the script says."""
    if choices.below(3):
        value = choices.near((*range(8), 0x40, BASE), size) & (1 << 8 * size) - 1
        block.write(offset, memoryview(bytearray(value.to_bytes(size, "little"))))
    else:
        block.read(offset, memoryview(bytearray(size)))


@contextmanager
def bounded_work() -> Iterator[None]:
    """Refuse to call more functions than `MAX_WORK`, be they written in Python or in C."""
    before = sys.getprofile()
    count = 0

    def watch(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}
        assert count <= MAX_WORK, "this work has no end"

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def check_report(error: VirtioError) -> None:
    """A transport's `report`: it hears of what is declared, each with a sentence."""
    assert isinstance(error, DriverViolation | DeviceFailed), repr(error)
    assert str(error)


def refuse_fault(error: OSError) -> None:
    """The kernel was given memory that is none, or a descriptor that is none."""
    assert error.errno not in {errno.EFAULT, errno.EBADF}, error


def play(
    make_host: Callable[[], Host],
    data: bytes,
    *,
    make_bus: Callable[[Host, GuestMemory, Choices], Bus] = MmioBlock,
    accesses: int = 1,
) -> None:
    """One input of a fuzzer: a script for one device on one bus."""
    host = make_host()
    try:
        with GuestMemory.from_ranges(RANGES) as memory:
            choices = Choices(data)
            Guest(host, make_bus(host, memory, choices), memory, choices, accesses).run()
    finally:
        host.close()
