"""The port by which a guest's kernel says that it has crashed.

Interface: QEMU's ``docs/specs/pvpanic.rst``. Reading gives the events that the device understands,
writing reports one. Linux has a driver (``pvpanic-mmio``, which also binds to the ACPI device
QEMU0001 with an I/O port).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BASE: Final = 0x505
SIZE: Final = 1


class PanicEvent(enum.IntFlag):
    """What the guest reports."""

    PANICKED = 1
    """The kernel panicked and will not go on."""
    CRASH_LOADED = 2
    """The kernel panicked, and a crash kernel takes over to write a dump."""


class Pvpanic:
    """A pvpanic port.

    Args:
        on_event: called, on the vCPU's thread, with the events of each write; bits that the device
            does not understand are left out, and a write of nothing else is ignored.
    """

    def __init__(self, on_event: Callable[[PanicEvent], object]) -> None:
        self._on_event = on_event

    def read(self, offset: int, data: memoryview) -> None:
        """Tell which events the device understands."""
        data[:] = b"\xff" * len(data)
        if data and offset == 0:
            data[0] = PanicEvent.PANICKED | PanicEvent.CRASH_LOADED

    def write(self, offset: int, data: memoryview) -> None:
        """Report the event."""
        if not data or offset:
            return
        events = PanicEvent(data[0] & (PanicEvent.PANICKED | PanicEvent.CRASH_LOADED))
        if events:
            self._on_event(events)
