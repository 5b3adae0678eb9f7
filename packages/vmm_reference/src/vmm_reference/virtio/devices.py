"""Making the virtio devices of a configuration, and what of the host they stand on."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from virtio_devices import Block, DeviceFailed, DiskImageError, RawImage, Rng
from vmm_reference.errors import InputFileError
from vmm_reference.event_loop import EventLoop
from vmm_reference.virtio.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from virtio_devices import Device
    from vmm_reference.config import VmConfig
    from vmm_reference.virtio.bus import VirtioBus
    from vmm_reference.virtio_config import DiskConfig

logger = logging.getLogger(__name__)


class VirtioDevices:
    """The virtio devices of a machine, each on a thread of its own: they wait for the host.

    Args:
        config: which there are.
        bus: where the guest finds them.
        on_error: called, on a device's thread, with the exception that ended it.

    Raises:
        InputFileError: a file that a device stands on cannot be used.
        HostError: there is no room for so many.
    """

    def __init__(
        self, config: VmConfig, bus: VirtioBus, on_error: Callable[[BaseException], None]
    ) -> None:
        self._bus = bus
        self._on_error = on_error
        self._loops: list[EventLoop] = []
        self._teardown = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            for index, disk in enumerate(config.disks):
                self._attach(self._disk(disk, f"disk{index}"), f"disk{index}")
            if config.rng is not None:
                self._attach(Rng(self._random_source(config.rng.src)), "rng")
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

    def _attach(self, device: Device, name: str) -> None:
        loop = EventLoop(self._on_error, name)
        self._teardown.callback(loop.close)
        self._bus.attach(device, name, loop)
        self._loops.append(loop)

    def _disk(self, config: DiskConfig, name: str) -> Block:
        try:
            image = RawImage(config.path, read_only=config.readonly, direct=config.direct)
        except DiskImageError as error:
            raise InputFileError("--disk", config.path, error.problem) from error
        except OSError as error:
            raise InputFileError("--disk", config.path, _cannot_open(error)) from error
        self._teardown.callback(image.close)
        return Block(
            image,
            serial=config.serial.encode(),
            queues=config.num_queues,
            queue_size=config.queue_size,
            report=Reports(logger, name),
        )

    def _random_source(self, path: Path) -> Callable[[int], bytes]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._teardown.callback(os.close, fd)
            os.read(fd, 1)
        except OSError as error:
            raise InputFileError("--rng", path, _cannot_open(error)) from error

        def read(size: int) -> bytes:
            parts = []
            while size:
                try:
                    part = os.read(fd, size)
                except OSError as error:
                    raise DeviceFailed(f"cannot read {path}: {error}") from error
                if not part:
                    raise DeviceFailed(f"{path} has no more random bytes")
                parts.append(part)
                size -= len(part)
            return b"".join(parts)

        return read


def _cannot_open(error: OSError) -> str:
    return f"cannot be used: {(error.strerror or str(error)).lower()}"
