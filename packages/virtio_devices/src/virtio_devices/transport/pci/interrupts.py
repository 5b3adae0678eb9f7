"""What a notification of a virtio-pci device becomes (virtio 1.2 §4.1.4.5, §4.1.5.1).

With MSI-X enabled: the vector that the driver mapped to the event, or nothing. Without it: a bit in
the ISR status, and the function's pin for as long as a bit is set.
"""

from __future__ import annotations

from threading import Lock

from virtio_devices.transport.pci.configuration import COMMAND_INTERRUPT_DISABLE
from virtio_devices.transport.state import check_numbers, require

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from virtio_devices.transport.pci.configuration import ConfigurationSpace
    from virtio_devices.transport.pci.msix import MsixTable
else:
    Protocol = object

NO_VECTOR = 0xFFFF

_QUEUE = 1
_CONFIG = 2


class InterruptLine(Protocol):
    """A level-triggered interrupt pin; callable from any thread, never blocks."""

    def set_level(self, active: bool) -> None:
        """Assert or release the pin."""


class PciInterrupts:
    """The way of both events to the driver; the `Events` of the transport's lifecycle.

    Args:
        space: the function's configuration space, in which Interrupt Status is shown.
        msix: its messages.
        line: its pin.
        queues: how many queues the device has.
    """

    def __init__(
        self, space: ConfigurationSpace, msix: MsixTable, line: InterruptLine, queues: int
    ) -> None:
        self._space = space
        self._msix = msix
        self._line = line
        self._lock = Lock()  # held while the pin changes, so that its last level is the right one
        self._isr = 0
        self._active = False
        self._config_vector = NO_VECTOR
        self._queue_vectors = [NO_VECTOR] * queues

    # Events

    def used_buffer(self, queue: int) -> None:
        """A queue has used buffers."""
        if self._msix.enabled:
            self._msix.signal(self._queue_vectors[queue])
        else:
            self._set(_QUEUE)

    def config_change(self) -> None:
        """The configuration changed. ISR status shows it with MSI-X, too (§4.1.4.5.1)."""
        self._set(_CONFIG)
        self._msix.signal(self._config_vector)

    # The driver's side

    @property
    def config_vector(self) -> int:
        """The vector for configuration changes, as the driver reads it."""
        return self._config_vector

    @config_vector.setter
    def config_vector(self, vector: int) -> None:
        self._config_vector = self._mapped(vector)

    def queue_vector(self, queue: int) -> int:
        """The vector of a queue, as the driver reads it."""
        return self._queue_vectors[queue] if queue < len(self._queue_vectors) else NO_VECTOR

    def set_queue_vector(self, queue: int, vector: int) -> None:
        """Map a queue to a vector; one that does not exist reads back as NO_VECTOR."""
        if queue < len(self._queue_vectors):
            self._queue_vectors[queue] = self._mapped(vector)

    def take_isr(self) -> int:
        """ISR status; reading clears it and releases the pin."""
        with self._lock:
            isr, self._isr = self._isr, 0
            self._drive()
            return isr

    def reset(self) -> None:
        """The device was reset: nothing is mapped, shown or pending."""
        self._config_vector = NO_VECTOR
        self._queue_vectors[:] = [NO_VECTOR] * len(self._queue_vectors)
        self._msix.forget_pending()
        self.take_isr()

    def save(self) -> tuple[int, int, tuple[int, ...]]:
        """ISR status, the vector for configuration changes, and those of the queues."""
        with self._lock:
            return self._isr, self._config_vector, tuple(self._queue_vectors)

    def restore(self, isr: int, config_vector: int, queue_vectors: tuple[int, ...]) -> None:
        """Take what `save` returned, and bring the pin in line.

        Raises:
            InvalidState: a vector or a bit that cannot be.
        """
        check_numbers([isr], _QUEUE | _CONFIG, "an ISR status")
        require(len(queue_vectors) == len(self._queue_vectors), "has not a vector for each queue")
        for vector in (config_vector, *queue_vectors):
            require(self._mapped(vector) == vector, f"has {vector:#x} for a vector")
        with self._lock:
            self._isr, self._config_vector = isr, config_vector
            self._queue_vectors[:] = queue_vectors
            self._drive()

    def reconsider(self) -> None:
        """MSI-X or Interrupt Disable may have changed: bring the pin in line."""
        with self._lock:
            self._drive()

    def _mapped(self, vector: int) -> int:
        return vector if 0 <= vector < len(self._msix) else NO_VECTOR

    def _set(self, bit: int) -> None:
        with self._lock:
            self._isr |= bit
            self._drive()

    def _drive(self) -> None:
        asserted = bool(self._isr) and not self._msix.enabled
        self._space.show_interrupt(asserted)
        active = asserted and not self._space.command & COMMAND_INTERRUPT_DISABLE
        if active != self._active:
            self._active = active
            self._line.set_level(active)
