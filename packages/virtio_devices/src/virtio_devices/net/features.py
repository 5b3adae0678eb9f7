"""Feature bits of the network device, and which of them need which others."""

from __future__ import annotations

from enum import IntFlag


class NetFeature(IntFlag):
    """What a network device offers (virtio 1.2 §5.1.3; the three of USO: virtio 1.3 §5.1.3)."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    GUEST_UFO = 1 << 10
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    HOST_UFO = 1 << 14
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23
    GUEST_USO4 = 1 << 54
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56


_F = NetFeature

#: What the driver lets the device send to it; can be changed by CTRL_GUEST_OFFLOADS.
GUEST_OFFLOADS = int(
    _F.GUEST_CSUM
    | (_F.GUEST_TSO4 | _F.GUEST_TSO6 | _F.GUEST_ECN | _F.GUEST_UFO)
    | (_F.GUEST_USO4 | _F.GUEST_USO6)
)

#: What only a backend can promise: these bits pass through it.
BACKEND_FEATURES = GUEST_OFFLOADS | int(
    _F.CSUM | _F.HOST_TSO4 | _F.HOST_TSO6 | _F.HOST_ECN | _F.HOST_UFO | _F.HOST_USO
)

# A feature, and a set of which at least one must come with it (virtio 1.2 §5.1.3.1).
_REQUIREMENTS = tuple(
    (int(feature), int(one_of))
    for feature, one_of in (
        (_F.GUEST_TSO4, _F.GUEST_CSUM),
        (_F.GUEST_TSO6, _F.GUEST_CSUM),
        (_F.GUEST_ECN, _F.GUEST_TSO4 | _F.GUEST_TSO6),
        (_F.GUEST_UFO, _F.GUEST_CSUM),
        (_F.GUEST_USO4, _F.GUEST_CSUM),
        (_F.GUEST_USO6, _F.GUEST_CSUM),
        (_F.HOST_TSO4, _F.CSUM),
        (_F.HOST_TSO6, _F.CSUM),
        (_F.HOST_ECN, _F.HOST_TSO4 | _F.HOST_TSO6),
        (_F.HOST_UFO, _F.CSUM),
        (_F.HOST_USO, _F.CSUM),
        (_F.CTRL_RX, _F.CTRL_VQ),
        (_F.CTRL_RX_EXTRA, _F.CTRL_RX),
        (_F.GUEST_ANNOUNCE, _F.CTRL_VQ),
        (_F.GUEST_ANNOUNCE, _F.STATUS),
        (_F.MQ, _F.CTRL_VQ),
        (_F.CTRL_MAC_ADDR, _F.CTRL_VQ),
        (_F.CTRL_GUEST_OFFLOADS, _F.CTRL_VQ),
    )
)


def is_consistent(features: int) -> bool:
    """Whether every feature of the set has what it needs beside it (virtio 1.2 §5.1.3.1)."""
    return all(features & one_of for feature, one_of in _REQUIREMENTS if features & feature)


def consistent_part(features: int) -> int:
    """`features` without those that lack what they need beside them (virtio 1.2 §5.1.3.1)."""
    while not is_consistent(features):
        for feature, one_of in _REQUIREMENTS:
            if not features & one_of:
                features &= ~feature
    return features
