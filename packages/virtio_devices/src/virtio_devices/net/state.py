"""What a saved network card remembers."""

from __future__ import annotations

from typing import NamedTuple


class NetState(NamedTuple):
    """A `Net`, without its backend.

    Attributes:
        mac: the address that its driver uses.
        status: link and announcement, as in the configuration space.
        offloads: what the driver takes from the backend, GUEST_CSUM to GUEST_UFO.
        active_pairs: how many pairs of queues receive.
    """

    mac: bytes
    status: int
    offloads: int
    active_pairs: int
