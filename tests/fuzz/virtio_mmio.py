"""The registers of virtio-mmio: accesses of any width at any offset, between kicks."""

from __future__ import annotations

from _hostile_guest import play
from virtio_block import Disk
from virtio_console import Terminals
from virtio_net import Wire
from virtio_rng import Entropy

HOSTS = (Disk, Terminals, Wire, Entropy)


def one_input(data: bytes) -> None:
    """The first byte chooses the device, the rest is a script."""
    play(HOSTS[sum(data[:1]) % len(HOSTS)], data[1:], accesses=20)
