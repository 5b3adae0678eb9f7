"""The entropy device against a guest that does anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from _hostile_guest import play

from virtio_devices import Rng

if TYPE_CHECKING:
    from _hostile_guest import Buffers, Guest
    from _script import Choices


class Entropy:
    """The device; the host has zeros for it."""

    def __init__(self) -> None:
        self.device = Rng(bytes)

    def request(self, choices: Choices) -> Buffers:
        """Some bytes, in several buffers; sometimes with what is none of its business."""
        readable = [b"x"] * (choices.below(8) == 0)
        sizes = (0, 1, 16, 64, 1000)
        return 0, readable, [choices.near(sizes, 1) for _ in range(choices.below(4))]

    def act(self, choices: Choices) -> None:
        """Nothing happens to it."""

    def prove(self, guest: Guest) -> None:
        """Sixteen bytes come."""
        guest.queues[0].add(writable=[16])
        assert [used.data for used in guest.fetch(0)] == [bytes(16)]

    def close(self) -> None:
        """It has nothing."""


def one_input(data: bytes) -> None:
    """One script."""
    play(Entropy, data)
