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
    from vm_memory import GuestMemory

#: Bytes of all buffers of one chain (virtio 1.2 §2.7.5.2).
MAX_CHAIN_BYTES = 1 << 32

_descriptor = struct.Struct("<QIHH")  # addr, len, flags, next (virtio 1.2 §2.7.5)


class ChainWalker:
    """Collects chains from one descriptor table.

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
        chain = _Collection(self._memory, head, self._size)
        table, entries, in_indirect, index = self._table, self._size, False, head
        while True:
            raw = self._memory.read(table + DESCRIPTOR_SIZE * index, DESCRIPTOR_SIZE)
            address, size, flags, following = _descriptor.unpack(raw)
            if flags & DESC_F_INDIRECT:
                self._check_table(chain, (address, size, flags), in_indirect)
                table, entries, in_indirect, index = address, size // DESCRIPTOR_SIZE, True, 0
                continue
            chain.append(address, size, writable=bool(flags & DESC_F_WRITE))
            if not flags & DESC_F_NEXT:
                return DescriptorChain(self._memory, head, chain.readable, chain.writable)
            if following >= entries:
                raise InvalidChain(head, f"goes on at {following} of a table of {entries}", "2.7.5")
            index = following

    def _check_table(
        self, chain: _Collection, descriptor: tuple[int, int, int], in_indirect: bool
    ) -> None:
        """Raise unless this descriptor may refer to an indirect table.

        Its WRITE flag means nothing (virtio 1.2 §2.7.5.3.2).
        """
        address, size, flags = descriptor
        reason = None
        if not self._indirect:
            reason = "was not negotiated"
        elif in_indirect:
            reason = "stands inside another one"
        elif flags & DESC_F_NEXT:
            reason = "has a descriptor after it"
        elif size == 0 or size % DESCRIPTOR_SIZE:
            reason = "does not hold a whole number of descriptors"
        if reason is not None:
            raise InvalidIndirectTable(chain.head, address, size, reason)
        if not self._memory.check_range(address, size):
            raise BufferOutsideMemory(chain.head, address, size)


class _Collection:
    """The buffers of one chain as far as they are known."""

    __slots__ = ("_bytes", "_limit", "_memory", "head", "readable", "writable")

    def __init__(self, memory: GuestMemory, head: int, limit: int) -> None:
        self._memory = memory
        self._limit = limit
        self._bytes = 0
        self.head = head
        self.readable: list[tuple[int, int]] = []
        self.writable: list[tuple[int, int]] = []

    def append(self, address: int, size: int, *, writable: bool) -> None:
        if len(self.readable) + len(self.writable) == self._limit:
            raise InvalidChain(
                self.head, f"has more than {self._limit} descriptors or loops", "2.7.5.3.1"
            )
        if self.writable and not writable:
            raise InvalidChain(
                self.head, "has a readable descriptor after a writable one", "2.7.4.2"
            )
        self._bytes += size
        if self._bytes > MAX_CHAIN_BYTES:
            raise InvalidChain(self.head, "holds more than 2^32 bytes", "2.7.5.2")
        if not self._memory.check_range(address, size):
            raise BufferOutsideMemory(self.head, address, size)
        (self.writable if writable else self.readable).append((address, size))
