"""The configuration space as drivers have seen it, and its generation (virtio 1.2 §2.5.1).

The generation grows whenever a reader could have seen something else before: two equal generations
around some reads prove that no read between them saw a change. It is counted when a change is first
seen, so a device cannot get it wrong.
"""

from __future__ import annotations

from threading import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.device import Device

_LIMIT = 1 << 32


class Generation:
    """Counts the changes of one device's configuration space; any thread may ask."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = Lock()
        self._config = device.config
        self._count = 0

    def now(self) -> tuple[bytes, int]:
        """The configuration space, and its generation."""
        with self._lock:
            now = self._device.config
            if now != self._config:
                self._config = now
                self._count = (self._count + 1) % _LIMIT
            return now, self._count

    def seen(self) -> tuple[bytes, int]:
        """The same as it was when somebody last looked."""
        with self._lock:
            return self._config, self._count

    def restore(self, config: bytes, count: int) -> None:
        """Go on from what `seen` returned."""
        with self._lock:
            self._config, self._count = config, count
