"""Which pages the guest has written: the log of a slot, and the vCPUs' rings.

Source: Documentation/virt/kvm/api.rst, sections 4.8, 4.117 and 8.29.
"""

from __future__ import annotations

import errno
from mmap import PAGESIZE
from typing import TYPE_CHECKING

from kvm_ioctls._arguments import octets, unsigned
from kvm_ioctls._capabilities import Capabilities
from kvm_ioctls._descriptor import record
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.caps import Cap
from kvm_ioctls.errors import KvmError

if TYPE_CHECKING:
    from kvm_ioctls._slots import SlotTable
    from kvm_ioctls._struct import Buffer
    from kvm_ioctls.rings import RingSetup

_WORD = 64  # pages per word of a log, and the granule of clearing


class DirtyPages(Capabilities):
    """Dirty logs and rings."""

    _slots: SlotTable
    _rings: RingSetup

    def get_dirty_log(self, slot: int) -> bytearray:
        """KVM_GET_DIRTY_LOG: bit n tells that page n of the slot was written since the last call.

        The result is sized by the slot: 64-bit words, little-endian.
        """
        unsigned("slot", slot, 32)
        with self._slots.lock:
            bitmap = bytearray(self._log_size("KVM_GET_DIRTY_LOG", slot))
            held = ffi.from_buffer("char[]", bitmap)
            log = record("struct kvm_dirty_log", {"slot": slot, "dirty_bitmap": held})
            self._fd.ioctl_record("KVM_GET_DIRTY_LOG", log)
        return bitmap

    def clear_dirty_log(
        self, slot: int, bitmap: Buffer, first_page: int = 0, num_pages: int | None = None
    ) -> None:
        """KVM_CLEAR_DIRTY_LOG: lets the pages whose bit is set be logged anew.

        Needs `enable_manual_dirty_log()`: `get_dirty_log()` then leaves the log as it is.

        Args:
            slot: the slot's number.
            bitmap: one bit per page from `first_page` on, in any buffer.
            first_page: a multiple of 64.
            num_pages: a multiple of 64, unless they reach the slot's end; by default all that
                follow `first_page`.

        Raises:
            ValueError: the bitmap has fewer bits than pages.
            KvmError: EINVAL for pages beyond the slot's end or not aligned.
        """
        unsigned("slot", slot, 32)
        bits, first = octets("bitmap", bitmap), unsigned("first_page", first_page, 64)
        with self._slots.lock:
            self._log_size("KVM_CLEAR_DIRTY_LOG", slot)
            if num_pages is None:
                num_pages = max(0, self._slots.size(slot) // PAGESIZE - first)
            pages = unsigned("num_pages", num_pages, 32)
            if len(bits) < (pages + _WORD - 1) // _WORD * 8:  # KVM reads whole words
                raise ValueError(f"{pages} pages need more than {len(bits)} bytes of bits")
            held = ffi.from_buffer("char[]", bits)
            what = {"slot": slot, "first_page": first_page, "num_pages": num_pages}
            log = record("struct kvm_clear_dirty_log", what | {"dirty_bitmap": held})
            self._fd.ioctl_record("KVM_CLEAR_DIRTY_LOG", log)

    def _log_size(self, request: str, slot: int) -> int:
        """Bytes of the slot's log; the kernel writes by the slot's size, whatever we pass."""
        size = self._slots.size(slot)
        if size == 0:
            self._fd.fileno()
            raise KvmError(errno.ENOENT, request, arguments=f"slot={slot:#x}")
        return (size // PAGESIZE + _WORD - 1) // _WORD * 8

    def enable_manual_dirty_log(self, *, initially_set: bool = False) -> None:
        """KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: reading a log no longer clears it.

        With `initially_set` every page of a slot counts as written when its logging begins.
        """
        flags = lib.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
        flags |= lib.KVM_DIRTY_LOG_INITIALLY_SET if initially_set else 0
        self.enable_cap(Cap.MANUAL_DIRTY_LOG_PROTECT2, flags)

    def enable_dirty_ring(self, size: int) -> None:
        """KVM_CAP_DIRTY_LOG_RING(_ACQ_REL): dirty pages go to rings, one per vCPU.

        Before the first vCPU; `VcpuFd.map_dirty_ring()` is where they arrive.

        Args:
            size: of each ring in bytes, a power of two; 16 bytes per page.
        """
        acq_rel = self._fd.ioctl("KVM_CHECK_EXTENSION", Cap.DIRTY_LOG_RING_ACQ_REL)
        self.enable_cap(Cap.DIRTY_LOG_RING_ACQ_REL if acq_rel else Cap.DIRTY_LOG_RING, size)

    def enable_cap(self, cap: Cap | int, *args: int, flags: int = 0) -> None:
        """KVM_ENABLE_CAP with up to four arguments; no capability has `flags` yet."""
        super().enable_cap(cap, *args, flags=flags)
        if cap in (Cap.DIRTY_LOG_RING, Cap.DIRTY_LOG_RING_ACQ_REL) and args:
            self._rings.dirty_size = args[0]

    def reset_dirty_rings(self) -> int:
        """KVM_RESET_DIRTY_RINGS: takes back what was harvested; returns how many pages."""
        return self._fd.ioctl("KVM_RESET_DIRTY_RINGS")
