"""The queues of a network device from activation to reset, by their numbers.

Receive queue N is 2N, transmit queue N is 2N + 1, the control queue comes after them all (virtio
1.2 §5.1.2).
"""

from __future__ import annotations

from virtio_devices.net.features import NetFeature
from virtio_devices.net.receive import Receiver
from virtio_devices.net.transmit import Transmitter
from virtio_devices.queue.serve import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from virtio_devices.net.control import ControlCommands
    from virtio_devices.net.counters import NetCounters
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory


class NetQueues:
    """What moves frames and takes commands.

    Args:
        queues: what the driver set up.
        features: what it accepted.
        fds: descriptors of the backend, one for each pair that the device has.
        commands: handles the control queue's requests.

    Attributes:
        active_pairs: how many pairs receive; the driver starts with one.
    """

    def __init__(
        self,
        queues: Mapping[int, Queue],
        features: int,
        fds: Sequence[int],
        commands: ControlCommands,
    ) -> None:
        multi_queue = bool(features & NetFeature.MQ)
        self.active_pairs = 1
        self._queues = queues
        self._fds = fds if multi_queue else fds[:1]
        self._commands = commands
        self._receivers: dict[int, Receiver] = {}
        self._transmitters: dict[int, Transmitter] = {}
        control_index = 2 * len(self._fds)
        has_control = features & NetFeature.CTRL_VQ and control_index in queues
        self._control_index = control_index if has_control else None

    def open_pairs(
        self, memory: GuestMemory, counters: NetCounters, *, mergeable: bool, mtu: int
    ) -> None:
        """Make what moves the frames of each pair; see `Receiver` and `Transmitter`."""
        for pair, fd in enumerate(self._fds):
            receive, transmit = 2 * pair, 2 * pair + 1
            if receive in self._queues:
                self._receivers[receive] = Receiver(
                    self._queues[receive], fd, counters, mergeable=mergeable, mtu=mtu
                )
            if transmit in self._queues:
                self._transmitters[transmit] = Transmitter(
                    self._queues[transmit], memory, fd, counters
                )

    def process(self, index: int, *, link_up: bool) -> bool:
        """Work off one queue; True if more is left. Nothing happens for one that is not there."""
        if index in self._receivers:
            return self._is_active(index) and self._receivers[index].process(link_up=link_up)
        if index in self._transmitters:
            return self._transmitters[index].process(link_up=link_up)
        if index == self._control_index:
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

    def close(self) -> None:
        """Forget the frames that wait."""
        for transmitter in self._transmitters.values():
            transmitter.close()

    def _is_active(self, receive_index: int) -> bool:
        return receive_index // 2 < self.active_pairs
