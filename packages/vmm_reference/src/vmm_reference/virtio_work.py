"""A virtio device at work on the event loop, whatever its transport.

Each queue has an eventfd, its *kick*: a guest's notification writes it, mostly as an ioeventfd and
without an exit. The loop processes a queue when its kick is written, or when a descriptor that the
device waits for (`readiness`) is readable.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtio_devices import Device
    from vmm_reference.event_loop import EventLoop


class Transport(Protocol):
    """What is needed of a transport."""

    @property
    def device(self) -> Device:
        """The device behind it."""

    def process_queue(self, index: int) -> bool:
        """Let the device work off one queue; True if it wants to be called again soon."""


class VirtioWork:
    """The kicks of one device, and what happens on them.

    Args:
        loop: does the work.
        queues: how many queues the device has.

    Attributes:
        kicks: the eventfd of each queue.
    """

    def __init__(self, loop: EventLoop, queues: int) -> None:
        self._loop = loop
        self._transport: Transport | None = None
        self._watched: dict[int, int] = {}  # what `readiness` said last
        self._teardown = contextlib.ExitStack()
        kicks: list[int] = []
        with contextlib.ExitStack() as undo:
            for _ in range(queues):
                kicks.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
                undo.callback(os.close, kicks[-1])
            self._teardown = undo.pop_all()
        self.kicks: Sequence[int] = kicks

    def start(self, transport: Transport) -> None:
        """Process the queues of `transport` from now on."""
        self._transport = transport
        for queue, fd in enumerate(self.kicks):
            self._loop.add_reader(fd, partial(self._kicked, queue))

    def kick(self, queue: int) -> None:
        """Let the loop process a queue; from any thread."""
        os.eventfd_write(self.kicks[queue], 1)

    def reconsider(self) -> None:
        """The device was activated or reset: let the loop ask what it waits for now."""
        self._loop.call_soon(self._watch)

    def stop(self) -> None:
        """Process nothing any more; the loop's thread has ended, or this is it."""
        for fd in (*self.kicks, *self._watched):
            self._loop.remove_reader(fd)
        self._watched = {}
        self._transport = None

    def close(self) -> None:
        """Stop, and close the kicks; may be called again."""
        self.stop()
        self.kicks = ()
        self._teardown.close()

    # On the loop's thread

    def _kicked(self, queue: int) -> None:
        with contextlib.suppress(BlockingIOError):  # taken together with an earlier one
            os.eventfd_read(self.kicks[queue])
        self._process(queue)

    def _ready(self, fd: int) -> None:
        queue = self._watched.get(fd)
        if queue is not None:
            self._process(queue)

    def _process(self, queue: int) -> None:
        if self._transport is not None and self._transport.process_queue(queue):
            self.kick(queue)
        self._watch()

    def _watch(self) -> None:
        """Wait for what the device waits for now."""
        wanted = {} if self._transport is None else dict(self._transport.device.readiness)
        for fd in self._watched.keys() - wanted.keys():
            self._loop.remove_reader(fd)
        for fd in wanted.keys() - self._watched.keys():
            self._loop.add_reader(fd, partial(self._ready, fd))
        self._watched = wanted
