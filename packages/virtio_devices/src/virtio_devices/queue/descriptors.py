"""From a head to the buffers of its chain, never trusting what the guest wrote.

Each descriptor is copied once and the copy is checked and used: the guest can change its
tables during the walk and changes nothing but what it gets back. The walk ends after at most
as many buffers as the queue has entries, whatever the descriptors say.
"""

from __future__ import annotations

import struct

from virtio_devices.errors import BufferOutsideMemory, InvalidChain, InvalidIndirectTable
from virtio_devices.queue.chain import DescriptorChain
from virtio_devices.queue.layout import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESCRIPTOR_SIZE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vm_memory import GuestMemory

#: Bytes of all buffers of one chain (virtio 1.2 §2.7.5.2).
MAX_CHAIN_BYTES = 1 << 32

#: Where the rules about chains stand, for each format of rings.
SPLIT_CLAUSES = {
    "length": "2.7.5.3.1",
    "order": "2.7.4.2",
    "total": "2.7.5.2",
    "memory": "2.7.5",
    "indirect": "2.7.5.3.1",
}
PACKED_CLAUSES = {
    "length": "2.8.17",
    "order": "2.8.17",
    "total": "2.8.4",
    "memory": "2.8.13",
    "indirect": "2.8.19",
}

_descriptor = struct.Struct("<QIHH")  # addr, len, flags, next (virtio 1.2 §2.7.5)


class ChainWalker:
    """Collects chains from one descriptor table of a split queue.

    Args:
        memory: guest memory that holds the table and the buffers.
        table: guest physical address of the table, checked to be memory as a whole.
        size: descriptors in it, and the most buffers of a chain (virtio 1.2 §2.7.5.3.1).
        indirect: whether INDIRECT_DESC was negotiated.
    """

    __slots__ = ("_indirect", "_memory", "_size", "_table")

    def __init__(self, memory: GuestMemory, table: int, size: int, *, indirect: bool) -> None:
        self._memory = memory
        self._table = table
        self._size = size
        self._indirect = indirect

    def collect(self, head: int) -> DescriptorChain:
        """The chain that begins at `head`, which is less than the size of the table.

        Raises:
            QueueError: a rule about chains is broken.
        """
        chain = Collection(self._memory, head, self._size, SPLIT_CLAUSES)
        table, entries, in_indirect, index = self._table, self._size, False, head
        while True:
            raw = self._memory.read(table + DESCRIPTOR_SIZE * index, DESCRIPTOR_SIZE)
            address, size, flags, following = _descriptor.unpack(raw)
            if flags & DESC_F_INDIRECT:
                chain.check_table(
                    address,
                    size,
                    negotiated=self._indirect,
                    nested=in_indirect,
                    linked=bool(flags & DESC_F_NEXT),
                )
                table, entries, in_indirect, index = address, size // DESCRIPTOR_SIZE, True, 0
                continue
            chain.append(address, size, writable=bool(flags & DESC_F_WRITE))
            if not flags & DESC_F_NEXT:
                return DescriptorChain(self._memory, head, chain.readable, chain.writable)
            if following >= entries:
                raise InvalidChain(head, f"goes on at {following} of a table of {entries}", "2.7.5")
            index = following


class Collection:
    """The buffers of one chain as far as they are known.

    Args:
        memory: guest memory.
        head: index of the chain's first descriptor.
        limit: the most buffers that it may have.
        clauses: the rules that it is held to.
    """

    __slots__ = ("_bytes", "_clauses", "_limit", "_memory", "head", "readable", "writable")

    def __init__(
        self, memory: GuestMemory, head: int, limit: int, clauses: Mapping[str, str]
    ) -> None:
        self._memory = memory
        self._limit = limit
        self._clauses = clauses
        self._bytes = 0
        self.head = head
        self.readable: list[tuple[int, int]] = []
        self.writable: list[tuple[int, int]] = []

    def append(self, address: int, size: int, *, writable: bool) -> None:
        """Take one more buffer, or raise for the rule that it breaks."""
        clauses = self._clauses
        if len(self.readable) + len(self.writable) == self._limit:
            reason = f"has more than {self._limit} descriptors or loops"
            raise InvalidChain(self.head, reason, clauses["length"])
        if self.writable and not writable:
            reason = "has a readable descriptor after a writable one"
            raise InvalidChain(self.head, reason, clauses["order"])
        self._bytes += size
        if self._bytes > MAX_CHAIN_BYTES:
            raise InvalidChain(self.head, "holds more than 2^32 bytes", clauses["total"])
        if not self._memory.check_range(address, size):
            raise BufferOutsideMemory(self.head, address, size, clauses["memory"])
        (self.writable if writable else self.readable).append((address, size))

    def check_table(
        self, address: int, size: int, *, negotiated: bool, nested: bool, linked: bool
    ) -> None:
        """Raise unless a descriptor may refer to this indirect table.

        Its WRITE flag means nothing (virtio 1.2 §2.7.5.3.2, §2.8.7).
        """
        reason = None
        if not negotiated:
            reason = "was not negotiated"
        elif nested:
            reason = "stands inside another one"
        elif linked:
            reason = "is linked with other descriptors"
        elif size == 0 or size % DESCRIPTOR_SIZE:
            reason = "does not hold a whole number of descriptors"
        if reason is not None:
            raise InvalidIndirectTable(self.head, address, size, reason, self._clauses["indirect"])
        if not self._memory.check_range(address, size):
            raise BufferOutsideMemory(self.head, address, size, self._clauses["memory"])
