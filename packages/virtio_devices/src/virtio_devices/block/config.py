"""Features and configuration space of the block device (virtio 1.2 §5.2.3, §5.2.4)."""

from __future__ import annotations

import struct
from enum import IntFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.block.backend import Backend

#: The unit of every offset and capacity, whatever the block size (§5.2.4).
SECTOR_SIZE = 512

#: Bytes that VIRTIO_BLK_T_GET_ID answers (§5.2.6).
MAX_SERIAL = 20

#: Bytes of one buffer; with SEG_MAX it bounds how much one request moves.
MAX_SEGMENT_SIZE = 256 * 1024
#: Buffers of one request, whatever the size of the queue.
MAX_SEGMENTS = 254

#: Sectors and ranges of one discard: 16 times 2 GiB. It costs the host no data.
MAX_DISCARD_SECTORS = 1 << 22
MAX_DISCARD_RANGES = 16
#: Sectors and ranges of one write of zeros: 64 MiB. The host may have to write them all.
MAX_ZEROES_SECTORS = 1 << 17
MAX_ZEROES_RANGES = 1

#: Where the driver may write: the cache mode, 1 for write-back (§5.2.4).
WRITEBACK_OFFSET = 32

# capacity, size_max, seg_max; geometry, which is not offered; blk_size; physical_block_exp,
# alignment_offset, min_io_size, opt_io_size; writeback; num_queues; three limits of discard; two
# of write zeroes, and write_zeroes_may_unmap
_config = struct.Struct("<QII HBB I BBHI Bx H III II B3x")


class BlockFeature(IntFlag):
    """Feature bits of the block device (§5.2.3)."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    GEOMETRY = 1 << 4
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14
    LIFETIME = 1 << 15
    SECURE_ERASE = 1 << 16


def offered_features(backend: Backend, queues: int) -> int:
    """The bits to offer for a disk on `backend` with this many queues."""
    features = (
        BlockFeature.SIZE_MAX
        | BlockFeature.SEG_MAX
        | BlockFeature.BLK_SIZE
        | BlockFeature.FLUSH
        | BlockFeature.TOPOLOGY
    )
    if queues > 1:
        features |= BlockFeature.MQ
    if backend.read_only:
        return int(features | BlockFeature.RO)
    features |= BlockFeature.CONFIG_WCE | BlockFeature.WRITE_ZEROES
    if backend.can_discard:
        features |= BlockFeature.DISCARD
    return int(features)


def max_segments(queue_size: int) -> int:
    """Data buffers of a request in a queue: header and status need a descriptor each."""
    return max(1, min(MAX_SEGMENTS, queue_size - 2))


def max_request_bytes(queue_size: int) -> int:
    """The most data of a driver that keeps to SIZE_MAX and SEG_MAX."""
    return max_segments(queue_size) * MAX_SEGMENT_SIZE


def config_space(backend: Backend, queues: int, queue_size: int, *, writeback: bool) -> bytes:
    """The whole configuration space."""
    sizes = backend.sizes
    ratio = sizes.physical_block_size // sizes.block_size
    sectors_per_block = sizes.block_size // SECTOR_SIZE
    return _config.pack(
        sizes.size // SECTOR_SIZE,
        MAX_SEGMENT_SIZE,
        max_segments(queue_size),
        *(0, 0, 0),
        sizes.block_size,
        *(ratio.bit_length() - 1, 0, ratio, 0),
        writeback,
        queues,
        *(MAX_DISCARD_SECTORS, MAX_DISCARD_RANGES, sectors_per_block),
        *(MAX_ZEROES_SECTORS, MAX_ZEROES_RANGES, backend.can_discard),
    )
