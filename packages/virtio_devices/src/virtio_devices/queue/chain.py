"""One request: the buffers of a descriptor chain, as two streams of bytes.

A device reads the readable bytes in order and writes the writable ones in order. Where one
buffer ends and the next begins means nothing (virtio 1.2 §2.7.4.1), so no device sees it.

A chain was checked when it was popped: all of it is guest memory. `DescriptorChain`, `Reader`
and `Writer` are in C, as the queue that makes them is; nobody else makes one.
"""

from __future__ import annotations

from virtio_devices._core import DescriptorChain, Reader, Writer

__all__ = ["DescriptorChain", "Reader", "Writer"]
