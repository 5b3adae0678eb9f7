"""A source of random numbers out of its configuration, and the file that it reads."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from virtio_devices import DeviceFailed, Rng
from vmm_reference.errors import InputFileError
from vmm_reference.os_reason import os_reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from vmm_reference.virtio_config import RngConfig


def make_rng(config: RngConfig, teardown: ExitStack) -> Rng:
    """Make a source of random numbers.

    Args:
        config: what it is.
        teardown: closes its file.

    Raises:
        InputFileError: the file cannot be read, has nothing, or may make its reader wait for ever.
    """
    path = config.src
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        teardown.callback(os.close, fd)
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise InputFileError("--rng", path, "is a FIFO, which may have no writer")
        os.set_blocking(fd, True)  # a slow source such as /dev/hwrng is waited for
        first = os.read(fd, 1)
    except OSError as error:
        raise InputFileError.unusable("--rng", path, error) from error
    if not first:  # the guest would wait for the first number for ever
        raise InputFileError("--rng", path, "has no bytes to give")
    return Rng(_reader(fd, path))


def _reader(fd: int, path: Path) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.read(fd, size)
            except OSError as error:
                raise DeviceFailed(f"cannot read {path}: {os_reason(error)}") from error
            if not part:
                raise DeviceFailed(f"{path} has no more random bytes")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    return read
