"""One port of a console device from activation to reset, and the numbers of its queues.

Port 0 has queues 0 and 1; with MULTIPORT the control queues are 2 and 3, and port N has 2N + 2
and 2N + 3 (virtio 1.2 §5.3.2).
"""

from __future__ import annotations

from virtio_devices.console.receive import PortReceiver
from virtio_devices.console.transmit import PortTransmitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtio_devices.console.port import ConsolePort
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

CONTROL_RECEIVE = 2
CONTROL_TRANSMIT = 3


def receive_index(port: int) -> int:
    """The receive queue of a port; its transmit queue is the next one."""
    return 2 * port + 2 if port else 0


def transmit_index(port: int) -> int:
    """The transmit queue of a port."""
    return receive_index(port) + 1


def port_of(queue: int) -> int | None:
    """The port that a queue belongs to; None for the control queues."""
    if queue in {CONTROL_RECEIVE, CONTROL_TRANSMIT}:
        return None
    return queue // 2 - 1 if queue > CONTROL_TRANSMIT else 0


class ActivePort:
    """A port while a driver uses the device.

    Args:
        number: of the port.
        port: the host's side.
        queues: what the driver set up; a port may have neither of its queues.
        memory: guest memory that holds the buffers.

    Attributes:
        guest_open: whether anybody in the guest wants to read from it.
    """

    __slots__ = ("_memory", "_port", "_receive_index", "_receiver", "_transmitter", "guest_open")

    def __init__(
        self, number: int, port: ConsolePort, queues: Mapping[int, Queue], memory: GuestMemory
    ) -> None:
        self._port = port
        self._memory = memory
        self._receive_index = receive_index(number)
        self._receiver: PortReceiver | None = None
        self._transmitter: PortTransmitter | None = None
        self.guest_open = True
        for index in (self._receive_index, self._receive_index + 1):
            if index in queues:
                self.open(index, queues[index])

    def open(self, index: int, queue: Queue) -> None:
        """Begin to work on one of its queues."""
        if index != self._receive_index:
            self._transmitter = PortTransmitter(queue, self._memory, self._port.output)
        elif self._port.own_source is not None:
            self._receiver = PortReceiver(queue, self._memory, self._port.own_source)

    def close(self, index: int) -> None:
        """Forget one of its queues, and what waits there."""
        if index == self._receive_index:
            self._receiver = None
        elif self._transmitter is not None:
            self._transmitter.close()
            self._transmitter = None

    def put_back(self) -> int:
        """Hold no buffer any more; how many bytes of the next one of output have gone out."""
        if self._receiver is not None:
            self._receiver.put_back()
        if self._transmitter is None:
            return 0
        self._transmitter.put_back()
        return self._transmitter.written

    def go_on_behind(self, written: int) -> None:
        """Leave out so much of the next buffer of output, which `put_back` counted."""
        if self._transmitter is not None:
            self._transmitter.written = written

    def process(self, index: int, *, host_open: bool) -> bool:
        """Move bytes of one of its queues, if both ends are open; True if more may be there."""
        if index != self._receive_index:
            return self._transmitter is not None and self._transmitter.process(is_open=host_open)
        if self._receiver is None or not host_open or not self.guest_open:
            return False
        return self._receiver.process()

    def readiness(self, *, host_open: bool) -> dict[int, int]:
        """Descriptors to wait for, each with its queue."""
        waits: dict[int, int] = {}
        receiver, transmitter = self._receiver, self._transmitter
        both_open = host_open and self.guest_open
        if receiver is not None and receiver.waits_for is not None and both_open:
            waits[receiver.waits_for] = self._receive_index
        if transmitter is not None and transmitter.waits_for is not None:
            waits[transmitter.waits_for] = self._receive_index + 1
        return waits

    @property
    def has_waiting_output(self) -> bool:
        """Whether a buffer of the guest waits until the host's end can be written."""
        return self._transmitter is not None and self._transmitter.waits_for is not None

    def look_again(self) -> None:
        """The source that had ended may have something again."""
        if self._receiver is not None:
            self._receiver.at_end = False

    def close_all(self) -> None:
        """Forget both."""
        self.close(self._receive_index)
        self.close(self._receive_index + 1)
