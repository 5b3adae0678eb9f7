"""A virtual processor: `kvm_ioctls.VcpuFd`'s twin over the engine."""

from __future__ import annotations

import errno
import mmap
import threading
import warnings
from typing import TYPE_CHECKING, Self

from kvm_ioctls import (
    CpuidEntry,
    DebugRegs,
    Fpu,
    KvmClosedError,
    KvmError,
    LapicState,
    MpState,
    MsrError,
    Regs,
    RunPage,
    Sregs,
    Translation,
    VcpuBusyError,
    VcpuEvents,
    Xcrs,
    Xsave,
)
from soft_kvm import msrs
from soft_kvm._call import address, check, packed, pointer
from soft_kvm._ffi import ffi, lib
from soft_kvm.cpuid import TSC_KHZ

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from kvm_ioctls import Exit
    from soft_kvm._ffi import CData
    from soft_kvm._machine import Machine

RUN_SIZE = 3 * 4096
"""KVM_GET_VCPU_MMAP_SIZE: struct kvm_run, port I/O data, the coalesced ring's page."""


class VcpuFd:
    """A virtual processor, made by `VmFd.create_vcpu()`; a context manager.

    One thread at a time may run it.  `kick()` is for every thread; all other calls wait while the
    vCPU runs.

    Attributes:
        run_page: exit reason and data, in the layout of `struct kvm_run`.
    """

    def __init__(self, machine: Machine, vcpu_id: int) -> None:
        self._mapping = mmap.mmap(-1, RUN_SIZE)
        self.run_page = RunPage(self._mapping)
        self._machine = machine
        self._busy = False  # from entry until the exit is decoded
        # A kick from another thread must not reach a vCPU that is being freed. A signal's handler
        # may kick while its own thread closes or kicks: hence reentrant.
        self._closing = threading.RLock()
        error = ffi.new("int *")
        # The mapping outlives the C object: close() frees that first.
        run = address(self.run_page.raw)
        self._vcpu: CData | None = None
        vcpu = lib.sk_vcpu_new(machine.vm, vcpu_id, run, error)
        check(error[0], "KVM_CREATE_VCPU")
        self._vcpu = vcpu
        self._cpuid: list[CpuidEntry] = []
        self._id = vcpu_id
        self._ran = False
        machine.hold()

    # -------------------------------------------------------------------------------- running

    def run(self) -> Exit:
        """KVM_RUN: runs the guest until it needs us; other Python threads run meanwhile.

        Returns:
            The exit, valid until the next call.  A signal or a kick gives `Interrupted`, and clears
            `immediate_exit`.

        Raises:
            KvmClosedError: the vCPU is closed.
            VcpuBusyError: another thread is inside this call.
        """
        if self._vcpu is None:
            raise KvmClosedError("vCPU")
        if self._busy:
            raise VcpuBusyError
        self._busy = self._ran = True
        try:
            return self._exit_of(lib.sk_vcpu_run(self._vcpu))
        finally:
            self._busy = False

    def _exit_of(self, result: int) -> Exit:
        """What `run()` returns: the page is this thread's until it has been read."""
        if self._machine.retired:
            self._machine.let_go()
        if result == 0:
            return self.run_page.decode()
        self.run_page.immediate_exit = False
        if result != -errno.EINTR:
            raise KvmError(-result, "KVM_RUN")
        return self.run_page.interrupted()

    def kick(self) -> None:
        """Ends the current `run()`, or else the next one, with `Interrupted`; from any thread."""
        with self._closing:
            vcpu = self._open()
            self.run_page.immediate_exit = True
            lib.sk_vcpu_kick(vcpu)

    @property
    def immediate_exit(self) -> bool:
        """Makes the next `run()` return `Interrupted` before the guest executes anything."""
        return self.run_page.immediate_exit

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.run_page.immediate_exit = value

    @property
    def error(self) -> str:
        """Why the last `run()` gave `InternalError`, in the engine's words."""
        return ffi.string(lib.sk_vcpu_error(self._open())).decode()

    # ------------------------------------------------------------------------------ registers

    def get_regs(self) -> Regs:
        """KVM_GET_REGS: general registers, RIP, RFLAGS."""
        regs = Regs()
        lib.sk_vcpu_get_regs(self._open(), pointer("struct kvm_regs *", regs))
        return regs

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        lib.sk_vcpu_set_regs(self._open(), pointer("struct kvm_regs *", regs))

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS: segments, descriptor tables, control registers, EFER, APIC base."""
        sregs = Sregs()
        lib.sk_vcpu_get_sregs(self._open(), pointer("struct kvm_sregs *", sregs))
        return sregs

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS; EINVAL for a state that no processor can be in."""
        result = lib.sk_vcpu_set_sregs(self._open(), pointer("struct kvm_sregs *", sregs))
        check(result, "KVM_SET_SREGS")

    def get_fpu(self) -> Fpu:
        """KVM_GET_FPU."""
        fpu = Fpu()
        lib.sk_vcpu_get_fpu(self._open(), pointer("struct kvm_fpu *", fpu))
        return fpu

    def set_fpu(self, fpu: Fpu) -> None:
        """KVM_SET_FPU."""
        lib.sk_vcpu_set_fpu(self._open(), pointer("struct kvm_fpu *", fpu))

    def get_xsave(self) -> Xsave:
        """KVM_GET_XSAVE: not here, there is no XSAVE (EINVAL); use `get_fpu()`."""
        raise KvmError(errno.EINVAL, "KVM_GET_XSAVE", "soft_kvm's processor has no XSAVE")

    def set_xsave(self, xsave: Xsave) -> None:  # noqa: ARG002 - the API's signature
        """KVM_SET_XSAVE: not here, there is no XSAVE (EINVAL); use `set_fpu()`."""
        raise KvmError(errno.EINVAL, "KVM_SET_XSAVE", "soft_kvm's processor has no XSAVE")

    def get_xcrs(self) -> Xcrs:
        """KVM_GET_XCRS: not here, there is no XSAVE (EINVAL)."""
        raise KvmError(errno.EINVAL, "KVM_GET_XCRS", "soft_kvm's processor has no XSAVE")

    def set_xcrs(self, xcrs: Xcrs) -> None:  # noqa: ARG002 - the API's signature
        """KVM_SET_XCRS: not here, there is no XSAVE (EINVAL)."""
        raise KvmError(errno.EINVAL, "KVM_SET_XCRS", "soft_kvm's processor has no XSAVE")

    def get_debugregs(self) -> DebugRegs:
        """KVM_GET_DEBUGREGS."""
        value, debugregs = ffi.new("uint64_t *"), DebugRegs()
        for n in (*range(4), 6, 7):
            lib.sk_vcpu_get_debug(self._open(), n, value)
            if n < 4:
                debugregs.db[n] = value[0]
            else:
                setattr(debugregs, f"dr{n}", value[0])
        return debugregs

    def set_debugregs(self, debugregs: DebugRegs) -> None:
        """KVM_SET_DEBUGREGS."""
        for n, value in (*enumerate(debugregs.db), (6, debugregs.dr6), (7, debugregs.dr7)):
            lib.sk_vcpu_set_debug(self._open(), n, value)

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS; `MsrError` names the register that is not there."""
        value, values = ffi.new("uint64_t *"), {}
        for index in indices:
            if not msrs.is_known(index):
                raise MsrError(index, "KVM_GET_MSRS")
            lib.sk_vcpu_get_msr(self._open(), index, value)
            values[index] = int(value[0])
        return values

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """KVM_SET_MSRS, in order; `MsrError` names the register that is not there."""
        for index, value in values.items():
            if not msrs.is_known(index):
                raise MsrError(index, "KVM_SET_MSRS")
            lib.sk_vcpu_set_msr(self._open(), index, value)

    def translate(self, gva: int) -> Translation:
        """KVM_TRANSLATE: walks the guest's page tables."""
        translation = Translation(linear_address=gva)
        lib.sk_vcpu_translate(self._open(), pointer("struct kvm_translation *", translation))
        return translation

    # ---------------------------------------------------------------------- everything else

    def set_cpuid2(self, entries: Sequence[CpuidEntry]) -> None:
        """KVM_SET_CPUID2: what the guest's CPUID answers, exactly."""
        leaves = packed("struct kvm_cpuid_entry2", entries)
        if self._ran and leaves != packed("struct kvm_cpuid_entry2", self._cpuid):
            raise KvmError(errno.EINVAL, "KVM_SET_CPUID2")
        table = ffi.cast("struct kvm_cpuid_entry2 *", address(leaves))
        check(lib.sk_vcpu_set_cpuid(self._open(), table, len(entries)), "KVM_SET_CPUID2")
        self._cpuid = [entry.copy() for entry in entries]

    def get_cpuid2(self) -> list[CpuidEntry]:
        """KVM_GET_CPUID2."""
        self._open()
        return [entry.copy() for entry in self._cpuid]

    def get_lapic(self) -> LapicState:
        """KVM_GET_LAPIC."""
        lapic = LapicState()
        result = lib.sk_vcpu_get_lapic(self._open(), pointer("struct kvm_lapic_state *", lapic))
        check(result, "KVM_GET_LAPIC")
        return lapic

    def set_lapic(self, lapic: LapicState) -> None:
        """KVM_SET_LAPIC."""
        result = lib.sk_vcpu_set_lapic(self._open(), pointer("struct kvm_lapic_state *", lapic))
        check(result, "KVM_SET_LAPIC")

    def get_mp_state(self) -> MpState:
        """KVM_GET_MP_STATE."""
        return MpState(lib.sk_vcpu_get_mp_state(self._open()))

    def set_mp_state(self, state: MpState) -> None:
        """KVM_SET_MP_STATE."""
        check(lib.sk_vcpu_set_mp_state(self._open(), int(state)), "KVM_SET_MP_STATE")

    def get_vcpu_events(self) -> VcpuEvents:
        """KVM_GET_VCPU_EVENTS."""
        events = VcpuEvents()
        lib.sk_vcpu_get_events(self._open(), pointer("struct kvm_vcpu_events *", events))
        return events

    def set_vcpu_events(self, events: VcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        result = lib.sk_vcpu_set_events(self._open(), pointer("struct kvm_vcpu_events *", events))
        check(result, "KVM_SET_VCPU_EVENTS")

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: 1,000,000, the clock is in nanoseconds."""
        return TSC_KHZ

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ: only the frequency that it has."""
        if khz != TSC_KHZ:
            raise KvmError(errno.EINVAL, "KVM_SET_TSC_KHZ", f"soft_kvm has {TSC_KHZ} kHz")

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT: without an in-kernel irqchip."""
        check(lib.sk_vcpu_interrupt(self._open(), vector), "KVM_INTERRUPT")

    def nmi(self) -> None:
        """KVM_NMI."""
        lib.sk_vcpu_nmi(self._open())

    # ------------------------------------------------------------------------------ life cycle

    def _open(self) -> CData:
        if self._vcpu is None:
            raise KvmClosedError("vCPU")
        return self._vcpu

    def close(self) -> None:
        """Frees it; may be called again.

        Raises:
            VcpuBusyError: another thread is inside `run()`; `kick()` it first.
        """
        with self._closing:
            if self._busy:
                raise VcpuBusyError
            vcpu, self._vcpu = self._vcpu, None
            if vcpu is None:
                return
            lib.sk_vcpu_free(vcpu)
        self.run_page.release()
        self._mapping.close()
        self._machine.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except VcpuBusyError as busy:
            if value is None:
                raise
            value.add_note(f"{busy}; the vCPU stays open")  # what went wrong first matters more

    def __del__(self) -> None:
        if getattr(self, "_vcpu", None) is not None:
            warnings.warn("unclosed vCPU", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<soft_kvm.VcpuFd {self._id}{' closed' if self._vcpu is None else ''}>"
