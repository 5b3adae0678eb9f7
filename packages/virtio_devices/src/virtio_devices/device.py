"""What a virtio device is to a transport.

A device offers features, a configuration space and queues, and processes requests. It does
not know how a driver reaches its registers, nor which kind of ring a queue has.

The memory that a device works on may have a method `wrote(address, size)`. Then everything that
goes into a chain's buffers is told: what Python writes goes through the memory's own methods, which
see it anyway; for what C code of this package writes by itself, `wrote` is called, after the bytes
are there and before the driver can see that their chain was given back. Fields of rings are not
told. The method may be called often, must not fail, and is looked up when a queue is made.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol, TypeGuard

    from virtio_devices.interrupt import DeviceInterrupt
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory
else:
    Protocol = object


class Device(Protocol):
    """A virtio device, without its transport.

    Life: `accept_features` (the driver proposes), `activate` (DRIVER_OK), `process_queue` any
    number of times, `reset`, and from the start again. A transport makes these calls one at a
    time. `reset` may come at any point, also twice.
    """

    @property
    def device_id(self) -> int:
        """The device type (virtio 1.2 §5)."""

    @property
    def features(self) -> int:
        """The bits of the device type that are offered; the transport adds those of rings."""

    @property
    def queue_sizes(self) -> Sequence[int]:
        """The largest size of each queue, in entries, powers of 2."""

    @property
    def config(self) -> bytes:
        """The whole configuration space as the driver shall see it now.

        A change makes a new object, of the same length: a change in place would show a driver half
        of it. Any thread may ask, at any time.
        """

    @property
    def readiness(self) -> Mapping[int, int]:
        """File descriptors to wait for, each with the queue to process when it is readable.

        Whoever runs the device asks after every `activate`, `process_queue` and `reset`: what a
        device cannot use now (a packet, without a buffer to put it in) it does not wait for. What
        was named stays open as long as the device lives, for a loop on another thread may go on to
        wait for it a moment longer.
        """

    def write_config(self, offset: int, data: bytes) -> None:
        """Take what the driver wrote into the configuration space, wholly inside of it.

        Any offset and length: ignore what is no writable field. Called at any time.
        """

    def accept_features(self, features: int) -> bool:
        """Whether the device can work with this subset, all of it offered (virtio 1.2 §2.2.2)."""

    def activate(
        self, memory: GuestMemory, queues: Mapping[int, Queue], interrupt: DeviceInterrupt
    ) -> None:
        """Start to work.

        Args:
            memory: the guest's memory.
            queues: the queues that the driver set up, by index; some may be missing.
            interrupt: how to reach the driver until the next reset.

        Raises:
            DeviceFailed: the host cannot give the device what it needs.
        """

    def process_queue(self, index: int) -> bool:
        """Work off what is available in one queue, in bounded time.

        Called after a driver's notification, and spuriously. A device with a thread of its own
        wakes that.

        Returns:
            Whether more work is left: the caller comes again soon, without a notification.

        Raises:
            DriverViolation: the queue or a request breaks the rules, beyond the device's repair.
            DeviceFailed: the host failed the device.
        """

    def reset(self) -> None:
        """Forget queues, interrupt and features; no guest memory is touched once it returns."""


class RestartsQueues(Device, Protocol):
    """A device that can lose one queue and get it back; RING_RESET is offered for those alone."""

    def reset_queue(self, index: int) -> None:
        """Forget one queue, which is stopped already (virtio 1.2 §2.6.1).

        Returns when no buffer of it is read or written any more.
        """

    def restart_queue(self, index: int, queue: Queue) -> None:
        """Go on with a new queue in the place of the one that was reset.

        Raises:
            DeviceFailed: the host cannot give the device what it needs.
        """


class SavesState(Device, Protocol):
    """A device whose state can be saved, and restored into a new one that is made alike.

    Queues and accepted features are the transport's to save. A device without these methods is
    saved as if it had nothing else to remember.
    """

    def save(self) -> object:
        """What `restore` needs: a plain record of whatever a driver or a VMM has changed.

        Called between two calls of `process_queue`. No chain may be in flight afterwards, or the
        transport's `save` is a VirtioUsageError: a device puts back (`Queue.put_back`) what it
        holds, and takes it again if it goes on. `Block`, `Rng`, `Net` and `Console` can always do
        so, whatever their drivers did.
        """

    def restore(self, state: object) -> None:
        """Go on from what `save` returned, after `accept_features` and, if it ran, `activate`.

        What either of them signals to the driver is not passed on: it has been heard before.

        Raises:
            InvalidState: this is no such record, or cannot be one of this device.
        """


def saves_state(device: Device) -> TypeGuard[SavesState]:
    """Whether the device has both methods."""
    return hasattr(device, "save") and hasattr(device, "restore")


def restarts_queues(device: Device) -> TypeGuard[RestartsQueues]:
    """Whether the device has both methods."""
    return hasattr(device, "reset_queue") and hasattr(device, "restart_queue")
