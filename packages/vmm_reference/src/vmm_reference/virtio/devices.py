"""The virtio devices of a configuration, each on a thread of its own."""

from __future__ import annotations

import contextlib
import string
from typing import TYPE_CHECKING

from vmm_reference.errors import UsageError
from vmm_reference.event_loop import EventLoop
from vmm_reference.virtio.disk import make_disk
from vmm_reference.virtio.net import make_net
from vmm_reference.virtio.rng import make_rng

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices import Console, Device
    from vmm_reference.config import VmConfig
    from vmm_reference.virtio.bus import VirtioBus


class VirtioDevices:
    """The virtio devices of a machine, each on a thread of its own: they wait for the host.

    Args:
        config: which there are.
        bus: where the guest finds them.
        on_error: called, on a device's thread, with the exception that ended it.
        console: the virtio console, if there is one; stays the caller's.

    Raises:
        InputFileError: a file that a device stands on cannot be used.
        UsageError: an interface that a card stands on cannot be used, or there is no room.
        HostError: this host does not permit one.
    """

    def __init__(
        self,
        config: VmConfig,
        bus: VirtioBus,
        on_error: Callable[[BaseException], None],
        console: Console | None = None,
    ) -> None:
        self._bus = bus
        self._on_error = on_error
        self._loops: list[EventLoop] = []
        self._teardown = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            for index, disk in enumerate(config.disks):
                label = f"disk{index} ({disk.path})"
                self._attach(make_disk(disk, label, self._teardown), label)
            for index, net in enumerate(config.nets):
                card, interface = make_net(net, self._teardown)
                self._attach(card, f"net{index} ({interface})")
            if config.rng is not None:
                self._attach(make_rng(config.rng, self._teardown), "rng")
            if console is not None:
                self._attach(console, "console")
            on_failure.pop_all()

    def start(self) -> None:
        """Start the threads."""
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Make the threads end after what they are at; wait for them."""
        for loop in self._loops:
            loop.stop()

    def close(self) -> None:
        """End the threads and close the files; may be called again."""
        self._teardown.close()

    def _attach(self, device: Device, label: str) -> None:
        """Put a device on the bus; its label is a name and perhaps, in brackets, a file."""
        name = label.partition(" ")[0]
        loop = EventLoop(self._on_error, name)
        self._teardown.callback(loop.close)
        try:
            self._bus.attach(device, label, loop)
        except UsageError as error:
            flag = name.rstrip(string.digits)
            raise UsageError(f"--{flag}: {name} is one device too many; {error}") from error
        self._loops.append(loop)
