"""A disk out of its configuration, and the image that it stands on."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

from virtio_devices import Block, DiskImageError, RawImage
from vmm_reference.errors import InputFileError
from vmm_reference.os_reason import os_reason
from vmm_reference.virtio.reports import Reports

if TYPE_CHECKING:
    from contextlib import ExitStack

    from vmm_reference.virtio_config import DiskConfig

logger = logging.getLogger(__name__)


def make_disk(config: DiskConfig, name: str, teardown: ExitStack) -> Block:
    """Make a disk.

    Args:
        config: what it is.
        name: what messages call it.
        teardown: closes its image.

    Raises:
        InputFileError: the image cannot be used.
    """
    try:
        image = RawImage(config.path, read_only=config.readonly, direct=config.direct)
    except DiskImageError as error:
        raise InputFileError("--disk", config.path, error.problem) from error
    except OSError as error:
        if _could_be_read(config, error):
            reason = f"cannot be written: {os_reason(error)}; readonly=on does without"
            raise InputFileError("--disk", config.path, reason) from error
        raise InputFileError.unusable("--disk", config.path, error) from error
    teardown.callback(image.close)
    return Block(
        image,
        serial=config.serial.encode(),
        queues=config.num_queues,
        queue_size=config.queue_size,
        report=Reports(logger, name),
    )


def _could_be_read(config: DiskConfig, error: OSError) -> bool:
    """Whether only writing is refused."""
    refused = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
    return refused and not config.readonly and os.access(config.path, os.R_OK)
