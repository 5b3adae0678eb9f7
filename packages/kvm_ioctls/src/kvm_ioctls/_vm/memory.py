"""Guest memory: slots, memory that only the guest sees, and its attributes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvm_ioctls._arguments import of_kind, unsigned
from kvm_ioctls._descriptor import Resource, record, scalar
from kvm_ioctls._ffi import lib
from kvm_ioctls._slots import Slot, borrow
from kvm_ioctls.errors import KvmError
from kvm_ioctls.guest_memfd import GuestMemfd

if TYPE_CHECKING:
    from kvm_ioctls._ffi import CData
    from kvm_ioctls._slots import SlotTable
    from kvm_ioctls.run_page import WritableBuffer


class Memory(Resource):
    """Memory slots."""

    _slots: SlotTable

    def set_user_memory_region(
        self, slot: int, guest_phys_addr: int, memory: WritableBuffer | None, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION: adds, moves, changes or deletes a slot.

        Args:
            slot: its number, below KVM_CAP_NR_MEMSLOTS.
            guest_phys_addr: where the guest sees it; a multiple of the page size.
            memory: the memory, its length a multiple of the page size and its place page-aligned
                (an `mmap` or a slice of one); borrowed while the slot lives.  Writable, unless
                `flags` has READONLY.  None deletes the slot.
            flags: `MemoryFlag`.

        Raises:
            KvmError: EEXIST when it overlaps another slot, EINVAL for addresses and sizes that are
                not aligned, for a change that KVM cannot make, or for deleting no slot.
        """
        writable = not unsigned("flags", flags, 32) & lib.KVM_MEM_READONLY
        new = borrow(memory, guest_phys_addr, writable=writable) if memory is not None else None
        region = record(
            "struct kvm_userspace_memory_region",
            {
                "slot": slot,
                "flags": flags,
                "guest_phys_addr": guest_phys_addr,
                "memory_size": new.size if new else 0,
                "userspace_addr": new.address if new else 0,
            },
        )
        self._set_slot("KVM_SET_USER_MEMORY_REGION", slot, region, new)

    def set_user_memory_region2(
        self,
        slot: int,
        guest_phys_addr: int,
        memory: WritableBuffer,
        guest_memfd: GuestMemfd,
        guest_memfd_offset: int = 0,
        flags: int = 0,
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION2: a slot with memory that only the guest sees.

        Args:
            slot: its number; `set_user_memory_region()` without memory deletes it.
            guest_phys_addr: where the guest sees it.
            memory: the shared memory of the slot; its length is the slot's size.
            guest_memfd: the private memory of the slot; it stays in use when it is closed here.
            guest_memfd_offset: where in it the slot begins, in bytes.
            flags: as for `set_user_memory_region()`; KVM_MEM_GUEST_MEMFD is added.
        """
        private = of_kind("guest_memfd", guest_memfd, GuestMemfd).fileno()
        writable = not unsigned("flags", flags, 32) & lib.KVM_MEM_READONLY
        new = borrow(memory, guest_phys_addr, private, writable=writable)
        region = record(
            "struct kvm_userspace_memory_region2",
            {
                "slot": slot,
                "flags": flags | lib.KVM_MEM_GUEST_MEMFD,
                "guest_phys_addr": guest_phys_addr,
                "memory_size": new.size,
                "userspace_addr": new.address,
                "guest_memfd": private,
                "guest_memfd_offset": guest_memfd_offset,
            },
        )
        self._set_slot("KVM_SET_USER_MEMORY_REGION2", slot, region, new)

    def _set_slot(self, request: str, slot: int, region: CData, new: Slot | None) -> None:
        """Asks for the change, and enters it in the same step.

        An exception that a signal's handler raises comes before both or after both: the guest never
        has memory that we have given back.
        """
        with self._slots.lock:
            try:
                self._fd.ioctl_entry(request, region, self._slots.entry(slot, new))
            except KvmError as error:
                if new is not None:
                    new.release()  # at once: the exception's traceback would hold it
                    self._name_overlap(error, slot, new)
                raise

    def _name_overlap(self, error: KvmError, slot: int, new: Slot) -> None:
        """Says which slot is in the way."""
        if error.errno != errno.EEXIST:
            return
        for other, there in self._slots.overlapping(new.start, new.size):
            if other != slot:
                end = there.start + there.size - 1
                error.hint = f"it overlaps slot {other} at {there.start:#x} to {end:#x}"

    def create_guest_memfd(self, size: int, flags: int = 0) -> GuestMemfd:
        """KVM_CREATE_GUEST_MEMFD: memory for `set_user_memory_region2()`.

        Args:
            size: in bytes, a multiple of the page size.
            flags: `GuestMemfdFlag`: MMAP lets it be mapped; with INIT_SHARED the mapping may be
                used from the beginning.
        """
        made = record("struct kvm_create_guest_memfd", {"size": size, "flags": flags})
        return GuestMemfd(self._fd.make("KVM_CREATE_GUEST_MEMFD", "GuestMemfd", made), size)

    def set_memory_attributes(self, address: int, size: int, attributes: int) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES: makes guest memory private or shared.

        Args:
            address: guest physical, a multiple of the page size.
            size: in bytes, a multiple of the page size.
            attributes: KVM_MEMORY_ATTRIBUTE_PRIVATE (8), or 0 for shared.
        """
        what = {"address": address, "size": size, "attributes": attributes}
        made = record("struct kvm_memory_attributes", what)
        self._fd.ioctl_record("KVM_SET_MEMORY_ATTRIBUTES", made)

    def set_tss_address(self, address: int) -> None:
        """KVM_SET_TSS_ADDR: three pages below 4 GiB that Intel hosts need for real mode."""
        self._fd.ioctl("KVM_SET_TSS_ADDR", address, "address", 64)

    def set_identity_map_address(self, address: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: one page below 4 GiB; before the first vCPU."""
        self._fd.ioctl_record("KVM_SET_IDENTITY_MAP_ADDR", scalar("__u64", "address", address))

    def get_nr_mmu_pages(self) -> int:
        """KVM_GET_NR_MMU_PAGES: how many pages the shadow page tables may take."""
        return self._fd.ioctl("KVM_GET_NR_MMU_PAGES")

    def set_nr_mmu_pages(self, pages: int) -> None:
        """KVM_SET_NR_MMU_PAGES."""
        self._fd.ioctl("KVM_SET_NR_MMU_PAGES", pages, "pages")
