"""The network device, on socket pairs, against a guest that does anything.

What reaches the wire is a frame with its header, of a size that a frame can have.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from _hostile_guest import LONG, play

from virtio_devices import Net, NetFeature

if TYPE_CHECKING:
    from _hostile_guest import Buffers, Guest
    from _script import Choices

PAIRS = 2
HEADER = bytes(12)
SMALLEST, LARGEST = 12 + 14, 12 + 65550

_OFFLOADS = int(
    NetFeature.CSUM | NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4 | NetFeature.HOST_TSO4
)
_COMMANDS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (3, 0), (4, 0), (5, 0))  # §5.1.6.5
_ARGUMENTS = (
    *(b"\0", b"\1", b"\1\0", b"\2\0", b"\2\0\0\0\0\7", b"\1\0\0\0\0\7"),
    *(bytes(8), b"\2" + bytes(7), b"\xff" * 8, bytes(4) + b"\1\0\0\0" + bytes(6)),
)
_FRAME_SIZES = (60, 1, 13, 14, 1514, 9000, 40000)


class Wire:
    """The device, and both ends of what it is plugged into."""

    features = _OFFLOADS

    def __init__(self) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(PAIRS)]
        self._near = [near for near, _far in pairs]
        self._far = [far for _near, far in pairs]
        for end in (*self._near, *self._far):
            end.setblocking(False)
        # One wire takes few frames before it is full, and none that are large.
        self._near[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.device = Net(self, mac=bytes((2, 0, 0, 0, 0, 1)), mtu=1500, queue_size=LONG)

    # The device's backend

    @property
    def queue_fds(self) -> list[int]:
        """The near ends."""
        return [near.fileno() for near in self._near]

    def set_offloads(self, features: int) -> None:
        """It was offered."""
        assert not features & ~_OFFLOADS

    def set_active_queues(self, count: int) -> None:
        """There are as many."""
        assert 1 <= count <= PAIRS

    # Host

    def request(self, choices: Choices) -> Buffers:
        """Room for a frame, a frame, or a command."""
        index = min(choices.below(2 * PAIRS + 3), 2 * PAIRS)
        if index == 2 * PAIRS:
            command = bytes(_COMMANDS[choices.below(len(_COMMANDS))])
            argument = choices.below(len(_ARGUMENTS) + 1)
            data = [*_ARGUMENTS, choices.bytes(8)][argument]
            return index, [command, data], [1]
        if index % 2:
            return index, [HEADER, choices.text(choices.near(_FRAME_SIZES, 1))], []
        return index, [], [choices.near((12, 64, 1526, 0), 1)] * (1 + choices.below(4))

    def act(self, choices: Choices) -> None:
        """A frame arrives, the cable is pulled or plugged in, or somebody listens."""
        what, pair = choices.below(5), choices.below(PAIRS)
        if what <= 1:
            size = choices.near((72, 26, 25, 1526, 9000, 65562), 1)
            with suppress(BlockingIOError):
                self._far[pair].send(choices.bytes(12).ljust(max(size, 1), b"f"))
        elif what == 2:
            self.device.set_link(up=bool(choices.below(2)))
        elif what == 3:
            self.device.announce()
        else:
            self._listen(pair)

    def _listen(self, pair: int) -> list[bytes]:
        frames = []
        with suppress(BlockingIOError):
            while True:
                frames.append(self._far[pair].recv(1 << 17))
        assert all(SMALLEST <= len(frame) <= LARGEST for frame in frames)
        return frames

    def prove(self, guest: Guest) -> None:
        """A frame goes each way, once those from before are gone."""
        self.device.set_link(up=True)
        for pair in range(PAIRS):
            self._listen(pair)
            with suppress(BlockingIOError):
                while True:
                    self._near[pair].recv(1 << 17)
        guest.queues[1].add([HEADER, b"out".ljust(60)])
        assert len(guest.fetch(1)) == 1
        assert self._listen(0) == [HEADER + b"out".ljust(60)]
        self._far[0].send(HEADER + b"in".ljust(60))
        guest.queues[0].add(writable=[1526])
        (used,) = guest.fetch(0)
        assert used.data[12:] == b"in".ljust(60)

    def close(self) -> None:
        """Unplug it."""
        for end in (*self._near, *self._far):
            end.close()


def one_input(data: bytes) -> None:
    """One script."""
    play(Wire, data)
