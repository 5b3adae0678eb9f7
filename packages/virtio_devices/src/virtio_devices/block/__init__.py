"""The block device (virtio 1.2 §5.2): a disk made of a raw image or of a block device.

`Block` is the device, `RawImage` what it usually stands on, `Backend` what it needs of anything
else. Requests are parsed as streams of bytes (`request`) and carried out in order (`executor`);
plain transfers between a file and the guest are carried out in C (`serving`). `config` is the
configuration space.

There is no format but raw, and none is ever guessed: a guest writes the first bytes of its disk,
so what they look like says nothing about who made them.
"""

from virtio_devices.block.backend import Backend, DiskSizes, FileBackend
from virtio_devices.block.config import MAX_SERIAL, SECTOR_SIZE, BlockFeature
from virtio_devices.block.device import Block
from virtio_devices.block.raw import RawImage
from virtio_devices.block.state import BlockState

__all__ = [
    "MAX_SERIAL",
    "SECTOR_SIZE",
    "Backend",
    "Block",
    "BlockFeature",
    "BlockState",
    "DiskSizes",
    "FileBackend",
    "RawImage",
]
