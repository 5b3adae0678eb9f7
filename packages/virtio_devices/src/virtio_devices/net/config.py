"""The configuration space of a network device (virtio 1.2 §5.1.4)."""

from __future__ import annotations

import os
import struct

from virtio_devices.errors import VirtioUsageError

_layout = struct.Struct("<6sHHH")  # mac, status, max_virtqueue_pairs, mtu

LINK_UP = 1
ANNOUNCE = 2

_MULTICAST = 1
_LOCAL = 2
_MAC_SIZE = 6
_SMALLEST_MTU = 68  # §5.1.4.1
_LARGEST_MTU = 65535


def pack_config(mac: bytes, status: int, queue_pairs: int, mtu: int) -> bytes:
    """The whole space as a driver reads it."""
    return _layout.pack(mac, status, queue_pairs, mtu)


def random_mac() -> bytes:
    """An address of nobody else: unicast, locally administered."""
    mac = bytearray(os.urandom(_MAC_SIZE))
    mac[0] = mac[0] & ~_MULTICAST | _LOCAL
    return bytes(mac)


def is_station(mac: bytes) -> bool:
    """Whether these bytes can be the address of one station."""
    return len(mac) == _MAC_SIZE and not mac[0] & _MULTICAST and any(mac)


def check_mtu(mtu: int) -> None:
    """Raise VirtioUsageError unless the device may offer this MTU (§5.1.4.1)."""
    if not _SMALLEST_MTU <= mtu <= _LARGEST_MTU:
        raise VirtioUsageError(f"an MTU is from {_SMALLEST_MTU} to {_LARGEST_MTU}, not {mtu}")
