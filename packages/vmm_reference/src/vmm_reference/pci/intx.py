"""Level-triggered interrupt lines that several pins share (PCI Local Bus 3.0 §2.2.6)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvm_ioctls.protocols import Vm


class IntxLine:
    """One line of the interrupt controller: active while any of its pins is.

    Args:
        vm: drives the line.
        gsi: its number.
    """

    def __init__(self, vm: Vm, gsi: int) -> None:
        self._vm = vm
        self._gsi = gsi
        self._lock = threading.Lock()
        self._active: set[IntxPin] = set()

    def pin(self) -> IntxPin:
        """A new pin on this line."""
        return IntxPin(self)

    def drive(self, pin: IntxPin, active: bool) -> None:
        """Set what one pin does; the line changes with the first and the last."""
        with self._lock:
            before = bool(self._active)
            if active:
                self._active.add(pin)
            else:
                self._active.discard(pin)
            if bool(self._active) != before:
                self._vm.set_irq_line(self._gsi, active)


class IntxPin:
    """One function's connection to a line; satisfies `virtio_devices.InterruptLine`."""

    def __init__(self, line: IntxLine) -> None:
        self._line = line

    def set_level(self, active: bool) -> None:
        """Assert or release the pin."""
        self._line.drive(self, active)
