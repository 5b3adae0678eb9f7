"""Virtqueues, the device's side: rings in guest memory that carry requests.

A `Queue` gives out `DescriptorChain` objects and takes them back. `SplitQueue` is the split
format (virtio 1.2 §2.7), `PackedQueue` the packed one (§2.8). Nothing here knows devices or
transports.
"""

from virtio_devices.queue.chain import DescriptorChain, Reader, Writer
from virtio_devices.queue.interface import Queue
from virtio_devices.queue.layout import SplitLayout
from virtio_devices.queue.packed import PackedQueue
from virtio_devices.queue.packed_layout import PackedLayout
from virtio_devices.queue.serve import serve
from virtio_devices.queue.split import SplitQueue
from virtio_devices.queue.state import QueueState

__all__ = [
    "DescriptorChain",
    "PackedLayout",
    "PackedQueue",
    "Queue",
    "QueueState",
    "Reader",
    "SplitLayout",
    "SplitQueue",
    "Writer",
    "serve",
]
