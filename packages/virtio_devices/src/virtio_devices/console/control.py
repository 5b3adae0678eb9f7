"""Messages about ports, in both directions (virtio 1.2 §5.3.6.2).

What the device has to say is kept as the last state of each matter, not as a list: a driver that
asks again and again, and takes no answers, makes the host remember nothing more.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from threading import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue

_message = struct.Struct("<IHH")  # id, event, value


class Event(IntEnum):
    """What a message is about."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


class ControlMessages:
    """What the device has to tell its driver about ports; any thread may add to it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: dict[tuple[int, int], bytes] = {}

    def add(self, port: int, event: Event, value: int = 0, more: bytes = b"") -> None:
        """Say this; what was said of the same matter and not taken yet is void."""
        with self._lock:
            self._waiting.pop((port, event), None)
            self._waiting[port, event] = _message.pack(port, event, value) + more

    def clear(self) -> None:
        """Say nothing."""
        with self._lock:
            self._waiting.clear()

    def save(self) -> tuple[tuple[int, int, bytes], ...]:
        """What was not taken yet, in order: port, event and all of the message."""
        with self._lock:
            return tuple([(*key, message) for key, message in self._waiting.items()])

    def restore(self, waiting: tuple[tuple[int, int, bytes], ...]) -> None:
        """Say this instead."""
        with self._lock:
            self._waiting = {(port, event): message for port, event, message in waiting}

    def deliver(self, queue: Queue) -> bool:
        """Put messages into the driver's buffers, as many as both have.

        Returns:
            Whether to come again soon: both may have more.

        Raises:
            QueueError: the driver broke its queue.
        """
        queue.disable_notification()
        for _ in range(queue.size):
            if not self._waiting:
                return False
            chain = queue.pop()
            if chain is not None:
                queue.add_used(chain, self._answer(chain))
            elif not queue.enable_notification():
                return False
        return True

    def _answer(self, chain: DescriptorChain) -> int:
        """The next message into a buffer; one that is too small comes back empty."""
        with self._lock:
            if not self._waiting:
                return 0
            key = next(iter(self._waiting))
            message = self._waiting[key]
            if len(message) > chain.writer.size:
                return 0
            del self._waiting[key]
        chain.writer.write(message)
        return len(message)


def read_message(chain: DescriptorChain) -> tuple[int, int, int] | None:
    """Port, event and value of a driver's message; None if it is shorter than one."""
    if chain.reader.size < _message.size:
        return None
    port, event, value = _message.unpack(chain.reader.read(_message.size))
    return port, event, value


def is_message(port: int, event: int, message: bytes) -> bool:
    """Whether these bytes say something of this port and event."""
    whole = len(message) >= _message.size
    return whole and _message.unpack_from(message)[:2] == (port, event)
