"""Feature bits of the console device."""

from __future__ import annotations

from enum import IntFlag


class ConsoleFeature(IntFlag):
    """What a console device offers (virtio 1.2 §5.3.3)."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1
    EMERG_WRITE = 1 << 2
