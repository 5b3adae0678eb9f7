"""A PCI function: accesses of any width in its BAR and its configuration space, between kicks.

The BAR moves, messages and masks change, memory accesses go off and on. What the function says of
itself stays consistent: where its memory is, when its pin is up, and which messages it sends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from _hostile_guest import access, check_report, play
from virtio_block import Disk
from virtio_console import Terminals
from virtio_net import Wire
from virtio_rng import Entropy

from virtio_devices import PciTransport
from virtio_devices.testing import InterruptCounter, InterruptPin, PciDriver

if TYPE_CHECKING:
    from _hostile_guest import Host
    from _script import Choices

    from vm_memory import GuestMemory

HOSTS = (Disk, Terminals, Wire, Entropy)

_COMMAND, _STATUS, _BAR = 0x04, 0x06, 0x10
_MEMORY, _PIN_OFF, _PIN_UP = 1 << 1, 1 << 10, 1 << 3
_MSIX_ON = 1 << 15
_BAR_SIZE = 0x8000
_COMMON, _ISR, _DEVICE, _TABLE, _PENDING, _NOTIFY = (
    0x0000, 0x1000, 0x2000, 0x4000, 0x5000, 0x6000
)  # fmt: skip
_FIELDS = (
    *(0x00, 0x04, 0x08, 0x0C, 0x10, 0x12, 0x14, 0x15, 0x16, 0x18, 0x1A, 0x1C, 0x1E),
    *(0x20, 0x24, 0x28, 0x2C, 0x30, 0x34, 0x38, 0x3A, 0x3B),
)


class Message(InterruptCounter):
    """A vector that must have its message, of the right widths, before it is sent."""

    def set_message(self, address: int, data: int) -> None:
        """The driver unmasked it."""
        assert 0 <= address < 1 << 64
        assert 0 <= data < 1 << 32
        super().set_message(address, data)

    def trigger(self) -> None:
        """It is sent."""
        assert self.message is not None
        super().trigger()


class Function:
    """A `Bus`: one function."""

    config_start = _DEVICE

    def __init__(self, host: Host, memory: GuestMemory, choices: Choices) -> None:
        self.kicks: list[int] = []
        self._pin = InterruptPin()
        self.transport = PciTransport(
            host.device,
            memory,
            vectors=[Message() for _ in range(choices.below(4))],
            line=self._pin,
            kick=self.kicks.append,
            report=check_report,
        )
        self.driver = PciDriver(self.transport)
        self._window = self._find_window()
        self._accesses = (
            self._access_common,
            self._access_common,
            self._access_bar,
            self._access_configuration,
            self._access_window,
            self._write_message,
            self._move,
        )

    def access(self, choices: Choices) -> None:
        """Any access; then the function must be at one with itself."""
        self._accesses[choices.below(len(self._accesses))](choices)
        command, msix = self.driver.config(_COMMAND, 2), self.driver.msix
        ranges = self.transport.memory_ranges()
        assert bool(ranges) == bool(command & _MEMORY)
        for base, size in ranges.values():
            assert size == _BAR_SIZE
            assert base % size == 0
            assert base < 1 << 64
        messages = bool(msix) and bool(self.driver.config(msix + 2, 2) & _MSIX_ON)
        shown = bool(self.driver.config(_STATUS, 2) & _PIN_UP)
        assert self._pin.active == (shown and not command & _PIN_OFF)
        assert not (shown and messages)

    def _access_common(self, choices: Choices) -> None:
        offset = choices.near(_FIELDS, 1)
        width = 1 if offset in (0x14, 0x15) else 4 if offset < 0x10 or 0x20 <= offset < 0x38 else 2
        size = choices.near((width, width, width, 1, 2, 4, 8), 1) or 1
        access(self.transport, _COMMON + offset, size, choices)

    def _access_bar(self, choices: Choices) -> None:
        start = choices.near((_COMMON, _ISR, _DEVICE, _TABLE, _PENDING, _NOTIFY, _BAR_SIZE), 2)
        offset, size = choices.integer(1), choices.near((1, 2, 4, 8), 1) or 1
        access(self.transport, start + offset, size, choices)

    def _access_configuration(self, choices: Choices) -> None:
        """The header, and the capabilities."""
        places = (_COMMAND, 0x3C, self.driver.msix + 2, self._window + 4, self._window + 16)
        data = bytearray(choices.bytes(choices.near((1, 2, 4), 1) or 1))
        offset = choices.near(places, 2)
        self.transport.write_config(offset, memoryview(data))
        self.transport.read_config(offset, memoryview(data))

    def _access_window(self, choices: Choices) -> None:
        """The BAR through the configuration space (virtio 1.2 §4.1.4.9)."""
        offset = choices.near((_COMMON, _ISR, _DEVICE, _TABLE, _NOTIFY, _BAR_SIZE), 2)
        offset += choices.near(_FIELDS, 1)
        self.driver.write_config_space(self._window + 4, choices.near((0, 0, 0), 1), 1)
        self.driver.write_config_space(self._window + 8, offset, 4)
        self.driver.write_config_space(self._window + 12, choices.near((1, 2, 4, 8), 4), 4)
        if choices.below(2):
            self.driver.write_config_space(self._window + 16, choices.near(range(16), 4), 4)
        else:
            self.driver.config(self._window + 16, 1 + choices.below(4))

    def _find_window(self) -> int:
        """The offset of the one vendor capability whose type is VIRTIO_PCI_CAP_PCI_CFG."""
        capability = self.driver.config(0x34, 1)
        while (self.driver.config(capability, 1), self.driver.config(capability + 3, 1)) != (9, 5):
            capability = self.driver.config(capability + 1, 1)
        return capability

    def _write_message(self, choices: Choices) -> None:
        """An entry of the table, in whole or in part; and messages on or off."""
        start = _TABLE + 16 * choices.below(4)
        if choices.below(2):
            access(self.transport, start + choices.below(16), choices.near((4, 8), 1) or 1, choices)
        elif self.driver.msix:
            address, data = choices.integer(8), choices.integer(4)
            self.driver.set_vector(choices.below(4), address, data, masked=bool(choices.below(2)))
            control = choices.below(4) << 14
            self.driver.write_config_space(self.driver.msix + 2, control, 2)

    def _move(self, choices: Choices) -> None:
        """As system software does: the address in two halves, and memory on."""
        address = choices.integer(8)
        self.driver.write_config_space(_BAR, address & 0xFFFF_FFFF, 4)
        self.driver.write_config_space(_BAR + 4, address >> 32, 4)
        self.driver.write_config_space(_COMMAND, _MEMORY, 2)
        assert self.transport.memory_ranges() == {0: (address & -_BAR_SIZE, _BAR_SIZE)}


def one_input(data: bytes) -> None:
    """The first byte chooses the device, the rest is a script."""
    play(HOSTS[sum(data[:1]) % len(HOSTS)], data[1:], make_bus=Function, accesses=20)
