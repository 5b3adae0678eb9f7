"""A virtual machine: `kvm_ioctls.VmFd`'s twin over the engine."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kvm_ioctls import ClockData, IrqChip, KvmClosedError, KvmError, Mmio, Pio, PitState2
from soft_kvm._call import address, check, packed, pointer
from soft_kvm._ffi import ffi, lib
from soft_kvm._machine import Machine
from soft_kvm.caps import MAX_VCPUS, answer
from soft_kvm.vcpu import VcpuFd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from kvm_ioctls import Cap, IrqRoutingEntry, WritableBuffer


class VmFd:
    """A virtual machine, made by `Kvm.create_vm()`; a context manager.

    It borrows the memory of its slots: while the machine or one of its vCPUs is open, closing an
    `mmap` under a slot raises `BufferError`.
    """

    def __init__(self) -> None:
        self._machine: Machine | None = Machine()

    def check_extension(self, cap: Cap | int) -> int:
        """KVM_CHECK_EXTENSION."""
        return answer(cap)

    def enable_cap(self, cap: Cap | int, *args: int) -> None:
        """KVM_ENABLE_CAP: there is none to enable (EINVAL)."""
        raise KvmError(errno.EINVAL, "KVM_ENABLE_CAP", f"soft_kvm has no capability {cap!r}{args}")

    # --------------------------------------------------------------------------------- memory

    def set_user_memory_region(
        self, slot: int, guest_phys_addr: int, memory: WritableBuffer | None, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION: adds, moves or deletes a slot.

        Args:
            slot: its number.
            guest_phys_addr: where the guest sees it; a multiple of the page size.
            memory: page-aligned, writable; borrowed while the slot lives.  None deletes the slot.
            flags: KVM_MEM_LOG_DIRTY_PAGES (1); no read-only slots (EINVAL).

        Raises:
            KvmError: EINVAL, EEXIST (overlap), as KVM.
        """
        machine = self._open()
        # A view of our own keeps the memory where it is, whatever becomes of the caller's.
        held = None if memory is None else memoryview(memory)
        if held is not None and held.readonly:
            raise TypeError("a slot's memory is writable")
        size = 0 if held is None else held.nbytes
        host = address(held) if size else ffi.NULL
        result = lib.sk_vm_set_memory(machine.vm, slot, flags, guest_phys_addr, size, host)
        if result < 0:
            raise KvmError(-result, "KVM_SET_USER_MEMORY_REGION")
        previous = machine.borrowed.pop(slot, None)
        if previous is not None:
            machine.retire(previous, in_use=result == 1)
        if held is not None and size:
            machine.borrowed[slot] = held

    def get_dirty_log(self, slot: int) -> bytearray:
        """KVM_GET_DIRTY_LOG: one bit per page of the slot, in 64-bit words; cleared as it is read.

        Raises:
            KvmError: ENOENT: no such slot, or it does not log.
        """
        machine = self._open()
        held = machine.borrowed.get(slot)
        pages = 0 if held is None else held.nbytes // 4096
        log = bytearray((pages + 63) // 64 * 8)
        bits = ffi.cast("uint64_t *", address(log))
        result = lib.sk_vm_take_dirty(machine.vm, slot, bits, len(log) // 8)
        check(result, "KVM_GET_DIRTY_LOG")
        return log

    def invalidate(self, guest_phys_addr: int, size: int) -> None:
        """Tells the engine that somebody other than the guest wrote code there.

        KVM has and needs nothing like it: a processor sees every store.  The engine keeps
        translations of code and sees only the guest's own stores.
        """
        lib.sk_vm_invalidate(self._open().vm, guest_phys_addr, size)

    def set_tss_address(self, address: int) -> None:
        """KVM_SET_TSS_ADDR: accepted; nothing needs it here."""
        if address >= 1 << 32:
            raise KvmError(errno.EINVAL, "KVM_SET_TSS_ADDR")

    def set_identity_map_address(self, address: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: accepted; nothing needs it here."""

    # ------------------------------------------------------------------------------ interrupts

    def create_irq_chip(self) -> None:
        """KVM_CREATE_IRQCHIP: two PICs, an IOAPIC, a local APIC per vCPU."""
        check(lib.sk_vm_create_irqchip(self._open().vm), "KVM_CREATE_IRQCHIP")

    def create_pit2(self, flags: int = 0) -> None:  # noqa: ARG002 - the API's signature
        """KVM_CREATE_PIT2; `flags` is of no consequence: the speaker makes no sound."""
        check(lib.sk_vm_create_pit(self._open().vm), "KVM_CREATE_PIT2")

    def get_irqchip(self, chip_id: int) -> IrqChip:
        """KVM_GET_IRQCHIP."""
        chip = IrqChip(chip_id=chip_id)
        result = lib.sk_vm_get_irqchip(self._open().vm, pointer("struct kvm_irqchip *", chip))
        check(result, "KVM_GET_IRQCHIP")
        return chip

    def set_irqchip(self, chip: IrqChip) -> None:
        """KVM_SET_IRQCHIP."""
        result = lib.sk_vm_set_irqchip(self._open().vm, pointer("struct kvm_irqchip *", chip))
        check(result, "KVM_SET_IRQCHIP")

    def get_pit2(self) -> PitState2:
        """KVM_GET_PIT2."""
        pit = PitState2()
        result = lib.sk_vm_get_pit(self._open().vm, pointer("struct kvm_pit_state2 *", pit))
        check(result, "KVM_GET_PIT2")
        return pit

    def set_pit2(self, pit: PitState2) -> None:
        """KVM_SET_PIT2."""
        result = lib.sk_vm_set_pit(self._open().vm, pointer("struct kvm_pit_state2 *", pit))
        check(result, "KVM_SET_PIT2")

    def get_clock(self) -> ClockData:
        """KVM_GET_CLOCK: nanoseconds since the machine was made."""
        clock = ffi.new("uint64_t *")
        lib.sk_vm_get_clock(self._open().vm, clock)
        return ClockData(clock=clock[0])

    def set_clock(self, clock: ClockData) -> None:
        """KVM_SET_CLOCK; the time stamp counter moves with it."""
        lib.sk_vm_set_clock(self._open().vm, clock.clock)

    def set_irq_line(self, gsi: int, active: bool) -> None:
        """KVM_IRQ_LINE."""
        check(lib.sk_vm_irq_line(self._open().vm, gsi, active), "KVM_IRQ_LINE")

    def signal_msi(self, address: int, data: int) -> int:
        """KVM_SIGNAL_MSI: above 0 when delivered, 0 when no vCPU takes it."""
        return check(lib.sk_vm_signal_msi(self._open().vm, address, data), "KVM_SIGNAL_MSI")

    def set_gsi_routing(self, entries: Sequence[IrqRoutingEntry]) -> None:
        """KVM_SET_GSI_ROUTING: replaces the whole table."""
        routes = packed("struct kvm_irq_routing_entry", entries)
        table = ffi.cast("struct kvm_irq_routing_entry *", address(routes))
        check(lib.sk_vm_set_routes(self._open().vm, table, len(entries)), "KVM_SET_GSI_ROUTING")

    def register_irqfd(self, fd: int, gsi: int, resample_fd: int | None = None) -> None:
        """KVM_IRQFD; the caller keeps `fd` open.  No resampling (EINVAL)."""
        if resample_fd is not None:
            raise KvmError(errno.EINVAL, "KVM_IRQFD", "soft_kvm does not resample")
        _require_eventfd(fd, "KVM_IRQFD")
        check(lib.sk_vm_irqfd(self._open().vm, fd, gsi, 1), "KVM_IRQFD")

    def unregister_irqfd(self, fd: int, gsi: int) -> None:
        """KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN."""
        check(lib.sk_vm_irqfd(self._open().vm, fd, gsi, 0), "KVM_IRQFD")

    def register_ioevent(
        self, fd: int, address: Pio | Mmio, length: int = 0, datamatch: int | None = None
    ) -> None:
        """KVM_IOEVENTFD; the caller keeps `fd` open."""
        _require_eventfd(fd, "KVM_IOEVENTFD")
        self._ioevent(fd, address, length, datamatch, 0)

    def unregister_ioevent(
        self, fd: int, address: Pio | Mmio, length: int = 0, datamatch: int | None = None
    ) -> None:
        """KVM_IOEVENTFD with KVM_IOEVENTFD_FLAG_DEASSIGN."""
        self._ioevent(fd, address, length, datamatch, lib.KVM_IOEVENTFD_FLAG_DEASSIGN)

    def _ioevent(
        self, fd: int, where: Pio | Mmio, length: int, datamatch: int | None, flags: int
    ) -> None:
        place = where.port if isinstance(where, Pio) else where.address
        flags |= lib.KVM_IOEVENTFD_FLAG_PIO if isinstance(where, Pio) else 0
        flags |= 0 if datamatch is None else lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        machine = self._open()
        result = lib.sk_vm_ioevent(machine.vm, datamatch or 0, place, length, fd, flags)
        check(result, "KVM_IOEVENTFD")

    # ------------------------------------------------------------------------------ life cycle

    def create_vcpu(self, vcpu_id: int) -> VcpuFd:
        """KVM_CREATE_VCPU; EINVAL for an id beyond KVM_CAP_MAX_VCPUS."""
        if vcpu_id >= MAX_VCPUS:
            raise KvmError(errno.EINVAL, "KVM_CREATE_VCPU", f"soft_kvm runs {MAX_VCPUS} vCPU")
        return VcpuFd(self._open(), vcpu_id)

    def _open(self) -> Machine:
        if self._machine is None:
            raise KvmClosedError("virtual machine")
        return self._machine

    def close(self) -> None:
        """Frees it; engine and memory go with the last of its vCPUs.  May be called again."""
        if self._machine is not None:
            machine, self._machine = self._machine, None
            machine.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_machine", None) is not None:
            warnings.warn("unclosed virtual machine", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<soft_kvm.VmFd{' closed' if self._machine is None else ''}>"


def _require_eventfd(fd: int, ioctl: str) -> None:
    """KVM's own check of the descriptor.

    Raises:
        KvmError: EBADF, EINVAL: it is not an eventfd.
    """
    try:
        kind = str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        raise KvmError(errno.EBADF, ioctl, f"{fd} is not an open file descriptor") from None
    if "eventfd" not in kind:
        raise KvmError(errno.EINVAL, ioctl, f"{fd} is {kind}, not an eventfd")
