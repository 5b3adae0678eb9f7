"""A keyboard controller's ports 0x60 to 0x64, as far as a PC needs them to reset itself.

There is no keyboard. The status port reads "output buffer full" for ever and "input buffer full"
never, which is what ends both loops that Linux may run here: the probe of its i8042 driver reads
17 stuck bytes and finds no controller, where a status of 0 makes it wait half a second for an
answer; and ``reboot=k`` writes its reset command at once, where a status of 0xff makes it poll
65536 times first. (With our ACPI tables, whose FADT says "no 8042", Linux does not probe at all.)

Port 0x61 is the PC's system control port B, here because it lies between. Under KVM the in-kernel
timer answers it and this device never sees it.

Source: IBM PS/2 Hardware Interface Technical Reference, Keyboard and Auxiliary Device Controller,
and its chapter on system control port B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BASE: Final = 0x60
SIZE: Final = 5

_DATA, _PORT_B, _STATUS_COMMAND = 0, 1, 4

_STATUS_OUTPUT_FULL = 0x01
_COMMAND_WRITE_OUTPUT_PORT = 0xD1
_COMMAND_PULSE = 0xF0  # low nibble: the output lines that are *not* pulsed low
_OUTPUT_NOT_RESET = 0x01  # line 0 is the processor's reset, active low

_PORT_B_WRITABLE = 0x0F  # timer 2 gate, speaker, and the two NMI enables
_PORT_B_REFRESH = 0x10  # toggles with each memory refresh; software times delays by it
_PORT_B_TIMER2_OUTPUT = 0x20  # high: whoever waits for the end of a countdown goes on


class I8042:
    """The reset line of a keyboard controller.

    Args:
        on_reset: called, on the vCPU's thread, each time the guest pulls the reset line; Linux
            does so up to ten times in a row.
    """

    def __init__(self, on_reset: Callable[[], object]) -> None:
        self._on_reset = on_reset
        self._port_b = 0
        self._expects_output_port = False

    def read(self, offset: int, data: memoryview) -> None:
        """Read a port; the data port and the unused ones read as ones."""
        data[:] = b"\xff" * len(data)
        if not data:
            return
        if offset == _STATUS_COMMAND:
            data[0] = _STATUS_OUTPUT_FULL
        elif offset == _PORT_B:
            self._port_b ^= _PORT_B_REFRESH
            data[0] = self._port_b | _PORT_B_TIMER2_OUTPUT

    def write(self, offset: int, data: memoryview) -> None:
        """Write a port; commands that do not end in a reset have no effect."""
        if not data:
            return
        value = data[0]
        if offset == _STATUS_COMMAND:
            self._command(value)
        elif offset == _DATA and self._expects_output_port:
            self._expects_output_port = False
            self._drive_output_port(value)
        elif offset == _PORT_B:
            self._port_b = self._port_b & _PORT_B_REFRESH | value & _PORT_B_WRITABLE

    def _command(self, value: int) -> None:
        self._expects_output_port = value == _COMMAND_WRITE_OUTPUT_PORT
        if value >= _COMMAND_PULSE:
            self._drive_output_port(value)

    def _drive_output_port(self, value: int) -> None:
        if not value & _OUTPUT_NOT_RESET:
            self._on_reset()
