"""Numbers of the specification that belong to no single transport or device.

Unknown bits keep their value: a newer driver's features are shown, not lost.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Feature(IntFlag):
    """Feature bits that mean the same for every device (virtio 1.2 §6)."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40


class DeviceId(IntEnum):
    """Device types that this package has, or will have, devices for (virtio 1.2 §5)."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    RNG = 4
