"""The console device, on pipes, against a guest that does anything."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from _hostile_guest import play

from virtio_devices import Console, ConsolePort

if TYPE_CHECKING:
    from _hostile_guest import Buffers, Guest
    from _script import Choices

QUEUES = 8
PORTS = 3
CONTROL_TRANSMIT = 3


class Terminals:
    """The device: a terminal on pipes, a stream into a function, a stream that goes nowhere."""

    def __init__(self) -> None:
        self._source, self._keyboard = os.pipe2(os.O_NONBLOCK)
        self._screen, self._output = os.pipe2(os.O_NONBLOCK)
        fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, 4096)  # it is full soon
        self._heard = 0
        self.device = Console(
            ConsolePort(self._output, self._source),
            ConsolePort(self._hear, name="org.example.0", is_console=False),
            ConsolePort(name="org.example.1", is_console=False),
            size=(80, 25),
        )

    def _hear(self, data: bytes) -> None:
        self._heard += len(data)

    def request(self, choices: Choices) -> Buffers:
        """Bytes, room for bytes, or a message about a port."""
        index = choices.below(QUEUES)
        if index == CONTROL_TRANSMIT:
            fields = (choices.near((0, 1, 2, 3), 4), choices.below(9), choices.near((0, 1), 2))
            return index, [struct.pack("<IHH", *fields)[: choices.near((8, 8, 8), 1)]], []
        if index % 2:
            return index, [choices.text(choices.near((1, 100, 4097), 1))] * 2, []
        return index, [], [choices.near((1, 64, 0, 8, 5000), 1)]

    def act(self, choices: Choices) -> None:
        """Keys are pressed, the window changes, ports come and go, somebody reads."""
        what, port = choices.below(5), choices.below(PORTS)
        if what == 0:
            with suppress(BlockingIOError):
                os.write(self._keyboard, choices.text(choices.below(64)))
        elif what == 1:
            self.device.resize(choices.integer(2), choices.integer(2))
        elif what == 2:
            self.device.open_port(port)
        elif what == 3:
            self.device.close_port(port)
        else:
            self._read_all(self._screen)

    def _read_all(self, descriptor: int) -> bytes:
        data = b""
        with suppress(BlockingIOError):
            while more := os.read(descriptor, 1 << 16):
                data += more
        return data

    def prove(self, guest: Guest) -> None:
        """A text goes each way, once those of emergencies are gone."""
        for port in range(PORTS):
            self.device.open_port(port)
        self._read_all(self._screen)
        self._read_all(self._source)
        guest.queues[1].add([b"out"])
        shown = b""
        for _ in range(3):
            done = guest.fetch(1)
            shown += self._read_all(self._screen)
            if done:
                break
        assert shown.endswith(b"out")
        os.write(self._keyboard, b"in")
        guest.queues[0].add(writable=[8])
        assert [used.data for used in guest.fetch(0)] == [b"in"]

    def close(self) -> None:
        """Close it all."""
        self.device.close()
        for descriptor in (self._source, self._keyboard, self._screen, self._output):
            os.close(descriptor)


def one_input(data: bytes) -> None:
    """One script."""
    play(Terminals, data)
