"""Rings that the kernel fills: pages written, and writes to coalesced zones.

Sources: Documentation/virt/kvm/api.rst, section 8.29, "KVM_CAP_DIRTY_LOG_RING", and section 4.116,
"KVM_(UN)REGISTER_COALESCED_MMIO".
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from kvm_ioctls import _run
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.addresses import Mmio, Pio

if TYPE_CHECKING:
    from mmap import mmap
    from types import TracebackType

_BATCH = 512  # pages per call of the harvest
_ADDRESSES = 1024  # address objects that a coalesced ring keeps
_PAGE = struct.Struct("=4xIQ")  # struct kvm_dirty_gfn: flags, slot, offset


class RingSetup:
    """What the rings of one machine have in common.

    Attributes:
        lock: one reader at a time: the coalesced ring is the machine's, whoever looks at it.
        dirty_size: of each vCPU's dirty ring in bytes, 0 when there are none.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.dirty_size = 0


class DirtyPage(NamedTuple):
    """A page that the guest wrote: the slot's number, and which of its pages."""

    slot: int
    page: int


class DirtyRing:
    """The pages that one vCPU wrote, in order; a context manager.

    Harvest it, then `VmFd.reset_dirty_rings()`: only then are the pages watched again, and their
    places in the ring free.  A vCPU whose ring is full stops with `DirtyRingFull`.

    Args:
        mapping: the ring.
        start: the entry that is written next: KVM goes on where it was, whoever looks at it.

    Raises:
        ValueError: this is no number of whole entries.
    """

    def __init__(self, mapping: mmap, start: int = 0) -> None:
        size = ffi.sizeof("struct kvm_dirty_gfn")
        if not mapping or len(mapping) % size:
            raise ValueError(f"a dirty ring is entries of {size} bytes, not {len(mapping)} bytes")
        self._mapping: mmap | None = mapping
        self._entries = len(mapping) // size
        self._next = start % self._entries
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether it has been unmapped."""
        return self._mapping is None

    @property
    def position(self) -> int:
        """Which entry is harvested next."""
        return self._next

    def harvest(self) -> list[DirtyPage]:
        """What was written since the last call."""
        pages: list[DirtyPage] = []
        with self._lock:
            if self._mapping is None:
                raise ValueError("the dirty ring is closed")
            batch = ffi.new("struct kvm_dirty_gfn[]", _BATCH)
            ring = ffi.from_buffer("struct kvm_dirty_gfn[]", self._mapping)
            try:
                count = _BATCH
                while count == _BATCH:
                    count = lib.kvm_harvest(ring, self._entries, self._next, batch, _BATCH)
                    self._next = (self._next + count) % self._entries
                    packed = ffi.buffer(batch, count * _PAGE.size)
                    pages += map(DirtyPage._make, _PAGE.iter_unpack(packed))
            finally:
                ffi.release(ring)
        return pages

    def close(self) -> None:
        """Unmaps the ring; again is harmless."""
        with self._lock:
            if self._mapping is not None:
                self._mapping.close()
            self._mapping = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class CoalescedWrite(NamedTuple):
    """A guest's write to a coalesced zone."""

    address: Pio | Mmio
    data: bytes


class CoalescedRing:
    """What guests wrote to the coalesced zones of one machine.

    Args:
        page: the ring's page in a vCPU's mapping, which it keeps.
        lock: held while the ring is read; one for all rings of a machine.
    """

    def __init__(self, page: memoryview, lock: threading.Lock) -> None:
        self._page = page
        self._lock = lock
        self._addresses: dict[tuple[int, int], Pio | Mmio] = {}

    def drain(self) -> list[CoalescedWrite]:
        """The writes since the last call, oldest first."""
        with self._lock:
            return _run.drain_coalesced(self._page, CoalescedWrite, self._address)

    def _address(self, pio: int, address: int) -> Pio | Mmio:
        """The address object; those of the last batches are used again."""
        known = self._addresses.get((pio, address))
        if known is None:
            if len(self._addresses) >= _ADDRESSES:
                self._addresses.clear()
            known = self._addresses[pio, address] = Pio(address) if pio else Mmio(address)
        return known
