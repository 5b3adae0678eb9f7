"""A virtual machine: memory slots, interrupt controllers, event file descriptors."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Self

from kvm_ioctls import _lists
from kvm_ioctls._descriptor import Descriptor
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls._slots import SlotTable, borrow
from kvm_ioctls.addresses import Mmio, Pio
from kvm_ioctls.caps import Cap
from kvm_ioctls.errors import KvmError
from kvm_ioctls.structs import ClockData, IrqChip, PitState2
from kvm_ioctls.vcpu import VcpuFd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from kvm_ioctls.routing import IrqRoutingEntry
    from kvm_ioctls.run_page import WritableBuffer

_PAGE = 4096  # x86: the granule of dirty logs


class VmFd:
    """A virtual machine, made by `Kvm.create_vm()`; a context manager.

    It borrows the memory of its slots: while one of the machine or its vCPUs is open, closing an
    `mmap` under a slot raises `BufferError`.  Machine, vCPUs and device may be closed in any order.
    """

    def __init__(self, fd: Descriptor, vcpu_mmap_size: int) -> None:
        self._fd = fd
        self._vcpu_mmap_size = vcpu_mmap_size
        self._slots = SlotTable()

    def check_extension(self, cap: Cap | int) -> int:
        """KVM_CHECK_EXTENSION for this machine; can differ from the system's answer."""
        return self._fd.ioctl("KVM_CHECK_EXTENSION", int(cap))

    def enable_cap(self, cap: Cap | int, *args: int) -> None:
        """KVM_ENABLE_CAP with up to four arguments."""
        what = {"cap": int(cap), "args": [*args, 0, 0, 0, 0][: max(4, len(args))]}
        self._fd.ioctl_record("KVM_ENABLE_CAP", ffi.new("struct kvm_enable_cap *", what))

    # --------------------------------------------------------------------------------- memory

    def set_user_memory_region(
        self, slot: int, guest_phys_addr: int, memory: WritableBuffer | None, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION: adds, moves, changes or deletes a slot.

        Args:
            slot: its number, below KVM_CAP_NR_MEMSLOTS.
            guest_phys_addr: where the guest sees it; a multiple of the page size.
            memory: the memory, its length a multiple of the page size and its place page-aligned
                (an `mmap` or a slice of one); borrowed while the slot lives.  None deletes it.
            flags: KVM_MEM_LOG_DIRTY_PAGES (1), KVM_MEM_READONLY (2).

        Raises:
            KvmError: EEXIST when it overlaps another slot, EINVAL for addresses and sizes that are
                not aligned, for a change that KVM cannot make, or for deleting no slot.
        """
        new = borrow(memory) if memory is not None else None
        region = ffi.new(
            "struct kvm_userspace_memory_region *",
            {
                "slot": slot,
                "flags": flags,
                "guest_phys_addr": guest_phys_addr,
                "memory_size": new.size if new else 0,
                "userspace_addr": new.address if new else 0,
            },
        )
        with self._slots.lock:
            try:
                self._fd.ioctl_record("KVM_SET_USER_MEMORY_REGION", region)
            except BaseException:
                if new is not None:
                    new.memory.release()  # at once: the exception's traceback would hold it
                raise
            self._slots.replace(slot, new)

    def get_dirty_log(self, slot: int) -> bytearray:
        """KVM_GET_DIRTY_LOG: bit n tells that page n of the slot was written since the last call.

        The result is sized by the slot: 64-bit words, little-endian.
        """
        with self._slots.lock:
            size = self._slots.size(slot)
            if size == 0:
                self._fd.fileno()
                raise KvmError(errno.ENOENT, "KVM_GET_DIRTY_LOG")
            bitmap = bytearray((size // _PAGE + 63) // 64 * 8)
            held = ffi.from_buffer("char[]", bitmap)
            log = ffi.new("struct kvm_dirty_log *", {"slot": slot, "dirty_bitmap": held})
            self._fd.ioctl_record("KVM_GET_DIRTY_LOG", log)
        return bitmap

    def set_tss_address(self, address: int) -> None:
        """KVM_SET_TSS_ADDR: three pages below 4 GiB that Intel hosts need for real mode."""
        self._fd.ioctl("KVM_SET_TSS_ADDR", address)

    def set_identity_map_address(self, address: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: one page below 4 GiB; before the first vCPU."""
        self._fd.ioctl_record("KVM_SET_IDENTITY_MAP_ADDR", ffi.new("__u64 *", address))

    # ----------------------------------------------------------------------------- interrupts

    def create_irq_chip(self) -> None:
        """KVM_CREATE_IRQCHIP: two PICs, an IOAPIC, a local APIC per vCPU; before the first vCPU."""
        self._fd.ioctl("KVM_CREATE_IRQCHIP")

    def create_pit2(self, flags: int = 0) -> None:
        """KVM_CREATE_PIT2: the 8254 timer; `flags` is 0 or KVM_PIT_SPEAKER_DUMMY (1)."""
        config = ffi.new("struct kvm_pit_config *", {"flags": flags})
        self._fd.ioctl_record("KVM_CREATE_PIT2", config)

    def get_irqchip(self, chip_id: int) -> IrqChip:
        """KVM_GET_IRQCHIP: the state of a PIC (0, 1) or the IOAPIC (2)."""
        chip = IrqChip(chip_id=chip_id)
        self._fd.ioctl_buffer("KVM_GET_IRQCHIP", chip.raw)
        return chip

    def set_irqchip(self, chip: IrqChip) -> None:
        """KVM_SET_IRQCHIP."""
        self._fd.ioctl_buffer("KVM_SET_IRQCHIP", chip.raw)

    def get_pit2(self) -> PitState2:
        """KVM_GET_PIT2."""
        pit = PitState2()
        self._fd.ioctl_buffer("KVM_GET_PIT2", pit.raw)
        return pit

    def set_pit2(self, pit: PitState2) -> None:
        """KVM_SET_PIT2."""
        self._fd.ioctl_buffer("KVM_SET_PIT2", pit.raw)

    def get_clock(self) -> ClockData:
        """KVM_GET_CLOCK: the guest's kvmclock, in nanoseconds."""
        clock = ClockData()
        self._fd.ioctl_buffer("KVM_GET_CLOCK", clock.raw)
        return clock

    def set_clock(self, clock: ClockData) -> None:
        """KVM_SET_CLOCK; `flags` that `get_clock()` reported must be cleared."""
        self._fd.ioctl_buffer("KVM_SET_CLOCK", clock.raw)

    def set_irq_line(self, gsi: int, active: bool) -> None:
        """KVM_IRQ_LINE: sets the level of an interrupt line."""
        level = ffi.new("struct kvm_irq_level *", {"irq": gsi, "level": bool(active)})
        self._fd.ioctl_record("KVM_IRQ_LINE", level)

    def signal_msi(self, address: int, data: int) -> int:
        """KVM_SIGNAL_MSI: above 0 when delivered, 0 when the guest blocked it."""
        message = {"address_lo": address & 0xFFFF_FFFF, "address_hi": address >> 32, "data": data}
        return self._fd.ioctl_record("KVM_SIGNAL_MSI", ffi.new("struct kvm_msi *", message))

    def set_gsi_routing(self, entries: Sequence[IrqRoutingEntry]) -> None:
        """KVM_SET_GSI_ROUTING: replaces the whole table."""
        packed = _lists.pack("struct kvm_irq_routing", entries)
        self._fd.ioctl_buffer("KVM_SET_GSI_ROUTING", packed)

    # ---------------------------------------------------------------- event file descriptors

    def register_irqfd(self, fd: int, gsi: int, resample_fd: int | None = None) -> None:
        """KVM_IRQFD: a write to eventfd `fd` raises interrupt `gsi`.

        With `resample_fd` the line is level-triggered: it stays active until the guest ends the
        interrupt, which signals that eventfd.
        """
        what = {"fd": fd, "gsi": gsi}
        if resample_fd is not None:
            what |= {"flags": lib.KVM_IRQFD_FLAG_RESAMPLE, "resamplefd": resample_fd}
        self._fd.ioctl_record("KVM_IRQFD", ffi.new("struct kvm_irqfd *", what))

    def unregister_irqfd(self, fd: int, gsi: int) -> None:
        """KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN."""
        what = {"fd": fd, "gsi": gsi, "flags": lib.KVM_IRQFD_FLAG_DEASSIGN}
        self._fd.ioctl_record("KVM_IRQFD", ffi.new("struct kvm_irqfd *", what))

    def register_ioevent(
        self, fd: int, address: Pio | Mmio, length: int = 0, datamatch: int | None = None
    ) -> None:
        """KVM_IOEVENTFD: a guest's write to `address` signals eventfd `fd` instead of an exit.

        Args:
            fd: the eventfd.
            address: a port or a guest physical address.
            length: only writes of 1, 2, 4 or 8 bytes; 0 for any.
            datamatch: only writes of this value; needs a `length`.
        """
        self._ioeventfd(fd, address, length, datamatch, 0)

    def unregister_ioevent(
        self, fd: int, address: Pio | Mmio, length: int = 0, datamatch: int | None = None
    ) -> None:
        """Undoes `register_ioevent()` with the same arguments."""
        self._ioeventfd(fd, address, length, datamatch, lib.KVM_IOEVENTFD_FLAG_DEASSIGN)

    def _ioeventfd(
        self, fd: int, address: Pio | Mmio, length: int, datamatch: int | None, flags: int
    ) -> None:
        if isinstance(address, Pio):
            flags |= lib.KVM_IOEVENTFD_FLAG_PIO
        if datamatch is not None:
            flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        what = {
            "fd": fd,
            "addr": address.port if isinstance(address, Pio) else address.address,
            "len": length,
            "datamatch": datamatch or 0,
            "flags": flags,
        }
        self._fd.ioctl_record("KVM_IOEVENTFD", ffi.new("struct kvm_ioeventfd *", what))

    # ---------------------------------------------------------------------------------- vCPUs

    def create_vcpu(self, vcpu_id: int) -> VcpuFd:
        """KVM_CREATE_VCPU; `vcpu_id` becomes its APIC id."""
        number = self._fd.ioctl("KVM_CREATE_VCPU", vcpu_id)
        fd = Descriptor(number, f"VcpuFd {vcpu_id}")
        try:
            xsave_size = self.check_extension(Cap.XSAVE2)
            return VcpuFd(fd, self._vcpu_mmap_size, self._slots, xsave_size)
        except BaseException:
            fd.close()
            raise

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd.fileno()

    def close(self) -> None:
        """Closes the machine; the kernel keeps it, and its memory, until its vCPUs are closed."""
        if self._fd.close():
            self._slots.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
