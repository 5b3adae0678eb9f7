"""A vCPU's rings: what it wrote to memory and to coalesced zones."""

from __future__ import annotations

from mmap import PAGESIZE
from typing import TYPE_CHECKING

from kvm_ioctls._descriptor import Resource
from kvm_ioctls._ffi import lib
from kvm_ioctls._mapping import mapped
from kvm_ioctls.rings import CoalescedRing, DirtyRing

if TYPE_CHECKING:
    from mmap import mmap

    from kvm_ioctls.rings import RingSetup


class Rings(Resource):
    """Dirty ring and coalesced ring."""

    _rings: RingSetup
    _mapping: mmap
    _dirty_ring: DirtyRing | None = None

    def map_dirty_ring(self) -> DirtyRing:
        """The pages that this vCPU wrote, after `VmFd.enable_dirty_ring()`; a context manager.

        There is one at a time; the next one goes on where it was.

        Raises:
            ValueError: the machine has no dirty rings, or the last one is open.
        """
        number = self.fileno()  # closed vCPUs have no mapping
        if not self._rings.dirty_size:
            raise ValueError("the machine has no dirty rings: enable_dirty_ring() comes first")
        offset = lib.KVM_DIRTY_LOG_PAGE_OFFSET * PAGESIZE
        former = self._dirty_ring
        if former is not None and not former.closed:
            raise ValueError("the vCPU's dirty ring is mapped: close that first")
        mapping = mapped(number, self._rings.dirty_size, offset)
        self._dirty_ring = DirtyRing(mapping, former.position if former is not None else 0)
        return self._dirty_ring

    def coalesced_ring(self) -> CoalescedRing:
        """What guests wrote to coalesced zones: one ring for the whole machine.

        Every vCPU of a machine shows the same ring; draining it through several is safe.
        """
        self.fileno()  # closed vCPUs have no mapping
        page = lib.KVM_COALESCED_MMIO_PAGE_OFFSET * PAGESIZE
        return CoalescedRing(memoryview(self._mapping)[page : page + PAGESIZE], self._rings.lock)
