"""What lives from DRIVER_OK to the next reset: the queues, and the device's way to its driver.

Its own small lock makes a reset final: once `retire` returned, nothing of this activation
reaches the driver any more (virtio 1.2 §2.4.1), whatever threads a device still has. The lock
is never held while a device is called, so a device may join its threads in ``reset``.
"""

from __future__ import annotations

from threading import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from virtio_devices.errors import DeviceFailed, DriverViolation, VirtioError
    from virtio_devices.queue.interface import Queue
else:
    Protocol = object


class Events(Protocol):
    """What a transport does about the two events that a driver can be told of."""

    def used_buffer(self, queue: int) -> None:
        """Show and signal that the queue with this index has used buffers."""

    def config_change(self) -> None:
        """Show and signal that the configuration, or DEVICE_NEEDS_RESET, changed."""


class Activation:
    """One life of a device; the `DeviceInterrupt` that the device gets.

    Args:
        events: where signals go while this activation lives.
        report: told why the device needs a reset, once.

    Attributes:
        queues: the queues in operation, by index.
        failure: why the device needs a reset, if it does.
        quiet: while set nothing is signalled: the device is being restored, and what it says when
            it is activated its driver has heard before.
    """

    def __init__(self, events: Events, report: Callable[[VirtioError], None]) -> None:
        self.queues: dict[int, Queue] = {}
        self.failure: DriverViolation | DeviceFailed | None = None
        self.quiet = False
        self._events = events
        self._report = report
        self._lock = Lock()
        self._live = True
        self._silent: set[int] = set()  # queues that were reset alone

    @property
    def running(self) -> bool:
        """Whether the device may still work."""
        return self._live and self.failure is None

    def used_buffer(self, queue: int) -> None:
        """Signal used buffers of one queue."""
        with self._lock:
            if self.running and not self.quiet and queue not in self._silent:
                self._events.used_buffer(queue)

    def config_change(self) -> None:
        """Signal a changed configuration space."""
        with self._lock:
            if self._live and not self.quiet:
                self._events.config_change()

    def needs_reset(self, error: DriverViolation | DeviceFailed) -> None:
        """Stop the queues and show DEVICE_NEEDS_RESET; the first reason stays."""
        with self._lock:
            if not self.running:
                return
            self.failure = error
            self._stop_queues()
            self._events.config_change()
        self._report(error)

    def stop_queue(self, index: int) -> None:
        """Take one queue out of service for good."""
        with self._lock:
            queue = self.queues.get(index)
            if queue is not None:
                queue.stop()

    def reset_queue(self, index: int) -> None:
        """Take one queue away: nothing of it reaches the driver any more (virtio 1.2 §2.6.1.1)."""
        with self._lock:
            queue = self.queues.pop(index, None)
            self._silent.add(index)
            if queue is not None:
                queue.stop()

    def restart_queue(self, index: int, queue: Queue) -> None:
        """Put a new queue in the place of one that was reset."""
        with self._lock:
            self.queues[index] = queue
            self._silent.discard(index)
            if not self.running:
                queue.stop()

    def retire(self) -> None:
        """Cut the device off from its driver."""
        with self._lock:
            self._live = False
            self._stop_queues()

    def _stop_queues(self) -> None:
        for queue in self.queues.values():
            queue.stop()
