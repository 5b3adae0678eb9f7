"""The queues of a network device from activation to reset, by their numbers.

Receive queue N is 2N, transmit queue N is 2N + 1, the control queue comes after them all (virtio
1.2 §5.1.2).
"""

from __future__ import annotations

from virtio_devices._core import Ring
from virtio_devices.descriptor import OwnDescriptor, Readiness
from virtio_devices.errors import VirtioUsageError
from virtio_devices.net.features import NetFeature
from virtio_devices.queue.serve import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtio_devices.net.control import ControlCommands
    from virtio_devices.net.receive import Receiver
    from virtio_devices.net.transmit import Transmitter
    from virtio_devices.queue.interface import Queue


class NetQueues:
    """What moves frames and takes commands.

    Args:
        features: what the driver accepted.
        fds: descriptors of the backend, one for each pair that the device has. They are
            duplicated: until `close_all` they are the same files, whoever closes them.
        readiness: what the device waits for, by queue; what is missing is added, and stays.
        commands: handles the control queue's requests.
        receiver, transmitter: make what moves the frames of a queue and a descriptor, and waits.

    Attributes:
        active_pairs: how many pairs receive; the driver starts with one.

    Raises:
        OSError: the descriptors cannot be duplicated.
    """

    def __init__(
        self,
        features: int,
        fds: Sequence[int],
        readiness: dict[int, Readiness],
        commands: ControlCommands,
        *,
        receiver: Callable[[Queue, OwnDescriptor, Readiness], Receiver],
        transmitter: Callable[[Queue, OwnDescriptor, Readiness], Transmitter],
    ) -> None:
        self.active_pairs = 1
        used = fds if features & NetFeature.MQ else fds[:1]
        self._descriptors = [OwnDescriptor(fd) for fd in used]
        self._readiness = readiness
        self._commands = commands
        self._make_receiver = receiver
        self._make_transmitter = transmitter
        self._queues: dict[int, Queue] = {}
        self._receivers: dict[int, Receiver] = {}
        self._transmitters: dict[int, Transmitter] = {}
        self._control_index = 2 * len(used) if features & NetFeature.CTRL_VQ else None

    def open(self, index: int, queue: Queue) -> None:
        """Begin to work on one queue that the driver has set up.

        Raises:
            VirtioUsageError: it is none of this package's, and C could not take chains from it.
            OSError: nobody can wait for the backend's descriptor.
        """
        if index < 2 * len(self._descriptors):
            if not isinstance(queue, Ring):
                kind = type(queue).__name__
                raise VirtioUsageError(
                    f"frames go through a SplitQueue or a PackedQueue, not through a {kind}"
                )
            descriptor = self._descriptors[index // 2]
            if index not in self._readiness:
                self._readiness[index] = Readiness()
            readiness = self._readiness[index]
            if index % 2:
                self._transmitters[index] = self._make_transmitter(queue, descriptor, readiness)
            else:
                self._receivers[index] = self._make_receiver(queue, descriptor, readiness)
        elif index != self._control_index:
            return
        self._queues[index] = queue

    def close(self, index: int) -> None:
        """Forget one queue, and the frame that waits for it."""
        self._queues.pop(index, None)
        mover = self._receivers.pop(index, None) or self._transmitters.pop(index, None)
        if mover is not None:
            mover.close()

    def close_all(self) -> None:
        """Forget every queue, and close the duplicates."""
        for index in list(self._queues):
            self.close(index)
        for descriptor in self._descriptors:
            descriptor.close()

    def put_back(self) -> None:
        """Hold no chain of the driver's any more; the next `process` takes them again."""
        for receiver in self._receivers.values():
            receiver.put_back()

    def process(self, index: int, *, link_up: bool) -> bool:
        """Work off one queue; True if more is left. Nothing happens for one that is not there."""
        if index in self._receivers:
            return self._is_active(index) and self._receivers[index].process(link_up=link_up)
        if index in self._transmitters:
            return self._transmitters[index].process(link_up=link_up)
        if index in self._queues:
            return serve(self._queues[index], self._commands.handle)
        return False

    def needs_notification(self, index: int) -> bool:
        """Whether the driver must look at the used ring of a queue."""
        return index in self._queues and self._queues[index].needs_notification()

    def readiness(self) -> dict[int, int]:
        """Descriptors that bring frames, and those on which frames wait to be sent."""
        waits: dict[int, int] = {}
        for index, receiver in self._receivers.items():
            if self._is_active(index) and receiver.waits_for is not None:
                waits[receiver.waits_for] = index
        for index, transmitter in self._transmitters.items():
            if transmitter.waits_for is not None:
                waits[transmitter.waits_for] = index
        return waits

    def _is_active(self, receive_index: int) -> bool:
        return receive_index // 2 < self.active_pairs
