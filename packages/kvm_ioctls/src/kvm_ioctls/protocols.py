"""What a VMM needs of a hypervisor, whoever provides it.

`kvm_ioctls.Kvm` satisfies `Hypervisor` with the kernel's KVM; any other implementation that gives
the same answers can take its place.  The methods' meaning is that of the ioctls they are named
after (Documentation/virt/kvm/api.rst); a refused call raises `KvmError` with KVM's errno.

Addresses are guest physical and plain `int`; sizes are bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from kvm_ioctls.addresses import Mmio, Pio

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from kvm_ioctls.exits import Exit
    from kvm_ioctls.routing import IrqRoutingEntry
    from kvm_ioctls.run_page import WritableBuffer
    from kvm_ioctls.structs import (
        ClockData,
        CpuidEntry,
        DebugRegs,
        Fpu,
        IrqChip,
        LapicState,
        MpState,
        PitState2,
        Regs,
        Sregs,
        VcpuEvents,
        Xcrs,
        Xsave,
    )

IoEventAddress: TypeAlias = Pio | Mmio
"""Where an ioeventfd listens."""


class Closeable(Protocol):
    """A resource: a context manager, and `close()`, which may be called again."""

    def close(self) -> None:
        """Frees it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Vcpu(Closeable, Protocol):
    """A virtual processor."""

    immediate_exit: bool

    def run(self) -> Exit:
        """Runs the guest until it needs the VMM; valid until the next call."""

    def kick(self) -> None:
        """Ends the current `run()`, or else the next one, with `Interrupted`; from any thread."""

    def get_regs(self) -> Regs:
        """KVM_GET_REGS."""

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS."""

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS; EINVAL for a state that no processor can be in."""

    def get_fpu(self) -> Fpu:
        """KVM_GET_FPU."""

    def set_fpu(self, fpu: Fpu) -> None:
        """KVM_SET_FPU."""

    def get_lapic(self) -> LapicState:
        """KVM_GET_LAPIC."""

    def set_lapic(self, lapic: LapicState) -> None:
        """KVM_SET_LAPIC."""

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS; `MsrError` names the register that KVM refuses."""

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """KVM_SET_MSRS, in order; `MsrError` names the register that KVM refuses."""

    def set_cpuid2(self, entries: Sequence[CpuidEntry]) -> None:
        """KVM_SET_CPUID2."""

    def get_cpuid2(self) -> list[CpuidEntry]:
        """KVM_GET_CPUID2."""

    def get_mp_state(self) -> MpState:
        """KVM_GET_MP_STATE."""

    def set_mp_state(self, state: MpState) -> None:
        """KVM_SET_MP_STATE."""

    def get_vcpu_events(self) -> VcpuEvents:
        """KVM_GET_VCPU_EVENTS."""

    def set_vcpu_events(self, events: VcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""

    def get_debugregs(self) -> DebugRegs:
        """KVM_GET_DEBUGREGS."""

    def set_debugregs(self, debugregs: DebugRegs) -> None:
        """KVM_SET_DEBUGREGS."""

    def get_xsave(self) -> Xsave:
        """KVM_GET_XSAVE2, or KVM_GET_XSAVE where that is all there is."""

    def set_xsave(self, xsave: Xsave) -> None:
        """KVM_SET_XSAVE."""

    def get_xcrs(self) -> Xcrs:
        """KVM_GET_XCRS."""

    def set_xcrs(self, xcrs: Xcrs) -> None:
        """KVM_SET_XCRS."""

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ."""

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ."""

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT: without an in-kernel irqchip."""

    def nmi(self) -> None:
        """KVM_NMI."""


class Vm(Closeable, Protocol):
    """A virtual machine."""

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION on the virtual machine; 0 when it is not there."""

    def enable_cap(self, cap: int, *args: int) -> None:
        """KVM_ENABLE_CAP."""

    def set_user_memory_region(
        self, slot: int, guest_phys_addr: int, memory: WritableBuffer | None, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION; `memory` is borrowed while the slot lives, None deletes."""

    def get_dirty_log(self, slot: int) -> bytearray:
        """KVM_GET_DIRTY_LOG: one bit per page of the slot, in 64-bit words."""

    def set_tss_address(self, address: int) -> None:
        """KVM_SET_TSS_ADDR."""

    def set_identity_map_address(self, address: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR."""

    def create_irq_chip(self) -> None:
        """KVM_CREATE_IRQCHIP: two PICs, an IOAPIC, a local APIC per vCPU."""

    def create_pit2(self, flags: int = 0) -> None:
        """KVM_CREATE_PIT2."""

    def get_irqchip(self, chip_id: int) -> IrqChip:
        """KVM_GET_IRQCHIP."""

    def set_irqchip(self, chip: IrqChip) -> None:
        """KVM_SET_IRQCHIP."""

    def get_pit2(self) -> PitState2:
        """KVM_GET_PIT2."""

    def set_pit2(self, pit: PitState2) -> None:
        """KVM_SET_PIT2."""

    def get_clock(self) -> ClockData:
        """KVM_GET_CLOCK."""

    def set_clock(self, clock: ClockData) -> None:
        """KVM_SET_CLOCK."""

    def set_irq_line(self, gsi: int, active: bool) -> None:
        """KVM_IRQ_LINE."""

    def signal_msi(self, address: int, data: int) -> int:
        """KVM_SIGNAL_MSI: above 0 when delivered, 0 when the guest blocks it."""

    def set_gsi_routing(self, entries: Sequence[IrqRoutingEntry]) -> None:
        """KVM_SET_GSI_ROUTING: replaces the whole table."""

    def register_irqfd(self, fd: int, gsi: int, resample_fd: int | None = None) -> None:
        """KVM_IRQFD."""

    def unregister_irqfd(self, fd: int, gsi: int) -> None:
        """KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN."""

    def register_ioevent(
        self, fd: int, address: IoEventAddress, length: int = 0, datamatch: int | None = None
    ) -> None:
        """KVM_IOEVENTFD."""

    def unregister_ioevent(
        self, fd: int, address: IoEventAddress, length: int = 0, datamatch: int | None = None
    ) -> None:
        """KVM_IOEVENTFD with KVM_IOEVENTFD_FLAG_DEASSIGN."""

    def create_vcpu(self, vcpu_id: int) -> Vcpu:
        """KVM_CREATE_VCPU."""


class Hypervisor(Closeable, Protocol):
    """What /dev/kvm is."""

    def get_api_version(self) -> int:
        """KVM_GET_API_VERSION: 12."""

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION; 0 when it is not there."""

    def get_vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE."""

    def get_nr_vcpus(self) -> int:
        """KVM_CAP_NR_VCPUS: the recommended number of vCPUs."""

    def get_max_vcpus(self) -> int:
        """KVM_CAP_MAX_VCPUS."""

    def get_nr_memslots(self) -> int:
        """KVM_CAP_NR_MEMSLOTS."""

    def get_supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID."""

    def get_msr_index_list(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST."""

    def create_vm(self, vm_type: int = 0) -> Vm:
        """KVM_CREATE_VM."""
