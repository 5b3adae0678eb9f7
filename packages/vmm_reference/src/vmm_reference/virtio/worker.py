"""Running one virtio device on an event loop: what wakes it, and that it comes back to its work.

A queue's kick is an eventfd that may serve as an ioeventfd. A device may wait for descriptors of
its own (`virtio_devices.Device.readiness`); which ones changes with its state, so the device is
asked again whenever that may have changed.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtio_devices import Device
    from vmm_reference.event_loop import EventLoop


class VirtioWorker:
    """Wakes a device.

    Args:
        device: whose queues they are.
        loop: where its work is done.

    Attributes:
        kicks: an eventfd for each queue; a write to it wakes the device.
    """

    def __init__(self, device: Device, loop: EventLoop) -> None:
        self._device = device
        self._loop = loop
        self._process: Callable[[int], bool] | None = None
        self._watched: Mapping[int, int] = {}
        self.kicks: tuple[int, ...] = ()
        for _ in device.queue_sizes:
            self.kicks += (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),)

    def start(self, process_queue: Callable[[int], bool]) -> None:
        """Follow kicks from now on.

        Args:
            process_queue: does a queue's work, as `virtio_devices.MmioTransport.process_queue`.
        """
        self._process = process_queue
        for index, fd in enumerate(self.kicks):
            self._loop.add_reader(fd, partial(self._kicked, index, fd))

    def kick(self, index: int) -> None:
        """Wake the device for a queue; from any thread."""
        os.eventfd_write(self.kicks[index], 1)

    def look_again(self) -> None:
        """The device's state may have changed: wait for what it wants now; from any thread."""
        if self._device.readiness != self._watched:
            self._loop.call_soon(self._watch)

    def close(self) -> None:
        """Do no more work; the loop's thread has ended by now. May be called again."""
        self._process = None
        for fd in self._watched:
            self._loop.remove_reader(fd)
        self._watched = {}
        kicks, self.kicks = self.kicks, ()
        for fd in kicks:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _kicked(self, index: int, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self._work(index)

    def _work(self, index: int) -> None:
        if self._process is None:
            return
        if self._process(index):
            self._loop.call_soon(partial(self._work, index))
        self._watch()

    def _watch(self) -> None:
        wanted, watched = self._device.readiness, self._watched
        if wanted == watched or self._process is None:
            return
        for fd in watched.keys() - wanted.keys():
            self._loop.remove_reader(fd)
        for fd, index in wanted.items():
            if watched.get(fd) != index:
                self._loop.remove_reader(fd)
                self._loop.add_reader(fd, partial(self._work, index))
        self._watched = dict(wanted)
