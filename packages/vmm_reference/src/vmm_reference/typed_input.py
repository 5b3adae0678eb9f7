"""A pipe through which what is typed reaches a device that reads a descriptor."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.event_loop import EventLoop


class TypedInput:
    """The pipe; 64 KiB wait in it for the guest.

    Args:
        loop: where somebody waits for room in it.

    Attributes:
        source: the end that the device reads; non-blocking.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self.source, self._typed = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._room = select.epoll()  # readable while the pipe is writable (epoll(7))
        self._room.register(self._typed, select.EPOLLOUT)

    def type_in(self, data: bytes) -> int:
        """Type `data`, from any thread; return how many bytes it took."""
        try:
            return os.write(self._typed, data)
        except BlockingIOError:
            return 0

    def when_room(self, callback: Callable[[], object]) -> None:
        """Call `callback` once on the loop's thread when the pipe takes bytes again."""

        def call() -> None:
            self._loop.remove_reader(self._room.fileno())
            callback()

        self._loop.add_reader(self._room.fileno(), call)

    def close(self) -> None:
        """Close both ends; the device has stopped reading."""
        self._loop.remove_reader(self._room.fileno())
        self._room.close()
        os.close(self._typed)
        os.close(self.source)
