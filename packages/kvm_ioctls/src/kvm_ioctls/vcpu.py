"""A virtual processor: running it, stopping it, and its registers."""

from __future__ import annotations

import errno
from contextlib import suppress
from itertools import islice
from mmap import mmap
from typing import TYPE_CHECKING, Self

from kvm_ioctls import _lists
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.errors import KvmClosedError, KvmError, MsrError, VcpuBusyError
from kvm_ioctls.run_page import RunPage
from kvm_ioctls.structs import (
    CpuidEntry,
    DebugRegs,
    Fpu,
    LapicState,
    MpState,
    MsrEntry,
    Regs,
    Sregs,
    Translation,
    VcpuEvents,
    Xcrs,
    Xsave,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from kvm_ioctls._descriptor import Descriptor
    from kvm_ioctls._slots import SlotTable
    from kvm_ioctls.exits import Exit

_MSRS_PER_CALL = 128  # KVM takes fewer than 256 (MAX_IO_MSRS in arch/x86/kvm/x86.c)


def kick_signal() -> int:
    """The signal that kicks vCPU threads.

    Chosen once per process, when the first vCPU is made or this is first called: the first
    real-time signal whose action is still the default, from SIGRTMIN up.  Its handler is in C and
    does nothing, with SA_RESTART.  A thread that runs a vCPU unblocks it.
    """
    number = lib.kvm_kick_signal()
    if number < 0:
        raise KvmError(-number, "sigaction", "no real-time signal is free to kick vCPUs with")
    return number


class VcpuFd:
    """A virtual processor, made by `VmFd.create_vcpu()`; a context manager.

    One thread at a time may run it.  `kick()` is for every thread; all other calls wait in the
    kernel while the vCPU runs.

    Attributes:
        run_page: the page shared with the kernel.
    """

    def __init__(self, fd: Descriptor, mmap_size: int, slots: SlotTable, xsave_size: int) -> None:
        self._fd = fd
        self._slots = slots
        self._xsave_size = xsave_size
        self._cpuid_entries = 0
        self._mapping = mmap(fd.fileno(), mmap_size)
        self.run_page = RunPage(self._mapping)
        # C reads the mapping through this address until kvm_runner_close(), see close().
        self._runner = ffi.new("struct kvm_runner *")
        page = ffi.from_buffer("char[]", self.run_page.raw)
        lib.kvm_runner_open(self._runner, fd.fileno(), page)
        ffi.release(page)
        kick_signal()
        slots.hold()

    # -------------------------------------------------------------------------------- running

    def run(self) -> Exit:
        """KVM_RUN: runs the guest until it needs us; other Python threads run meanwhile.

        Returns:
            The exit, valid until the next call.  A signal or a kick gives `Interrupted`, and clears
            `immediate_exit`.  When KVM asks to be called again (EAGAIN, an application processor
            that was woken), it is.

        Raises:
            KvmError: KVM_RUN failed; the guest's memory is gone (EFAULT), for instance.
            VcpuBusyError: another thread is inside this call.
        """
        result = lib.kvm_runner_run(self._runner)
        return self.run_page.decode() if result == 0 else self._without_exit(result)

    def _without_exit(self, result: int) -> Exit:
        """What to make of a KVM_RUN that failed."""
        if result == -errno.EINTR:
            return self.run_page.interrupted()
        if result == lib.KVM_RUNNER_CLOSED:
            raise KvmClosedError(self._fd.name)
        if result == lib.KVM_RUNNER_BUSY:
            raise VcpuBusyError
        # The one exit that comes with an error: api.rst, "KVM_EXIT_MEMORY_FAULT".
        fault = result in (-errno.EFAULT, -lib.EHWPOISON)
        if fault and self.run_page.exit_reason == lib.KVM_EXIT_MEMORY_FAULT:
            return self.run_page.decode()
        raise KvmError(-result, "KVM_RUN")

    def kick(self) -> None:
        """Ends the current `run()`, or else the next one, with `Interrupted`; from any thread.

        However often a vCPU is kicked before it notices, it is interrupted once; a kick is never
        lost, nor does one interrupt twice.
        """
        result = lib.kvm_runner_kick(self._runner)
        if result == lib.KVM_RUNNER_CLOSED:
            raise KvmClosedError(self._fd.name)
        if result < 0:
            raise KvmError(-result, "tgkill")

    @property
    def immediate_exit(self) -> bool:
        """Makes the next `run()` return `Interrupted` before the guest executes anything.

        Input and output that is under way is completed.
        """
        return self.run_page.immediate_exit

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.run_page.immediate_exit = value

    # ------------------------------------------------------------------------------ registers

    def get_regs(self) -> Regs:
        """KVM_GET_REGS: general registers, RIP, RFLAGS."""
        regs = Regs()
        self._fd.ioctl_buffer("KVM_GET_REGS", regs.raw)
        return regs

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        self._fd.ioctl_buffer("KVM_SET_REGS", regs.raw)

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS: segments, descriptor tables, control registers, EFER, APIC base."""
        sregs = Sregs()
        self._fd.ioctl_buffer("KVM_GET_SREGS", sregs.raw)
        return sregs

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS; EINVAL for a state that no processor can be in."""
        self._fd.ioctl_buffer("KVM_SET_SREGS", sregs.raw)

    def get_fpu(self) -> Fpu:
        """KVM_GET_FPU: x87 and SSE registers."""
        fpu = Fpu()
        self._fd.ioctl_buffer("KVM_GET_FPU", fpu.raw)
        return fpu

    def set_fpu(self, fpu: Fpu) -> None:
        """KVM_SET_FPU; before the first `run()` KVM forgets it: use `set_xsave()` there."""
        self._fd.ioctl_buffer("KVM_SET_FPU", fpu.raw)

    def get_xsave(self) -> Xsave:
        """KVM_GET_XSAVE2, or KVM_GET_XSAVE where that is all there is."""
        xsave = Xsave.over(bytearray(max(self._xsave_size, Xsave.SIZE)))
        self._fd.ioctl_buffer("KVM_GET_XSAVE2" if self._xsave_size else "KVM_GET_XSAVE", xsave.raw)
        return xsave

    def set_xsave(self, xsave: Xsave) -> None:
        """KVM_SET_XSAVE.

        Raises:
            ValueError: `xsave` is shorter than this vCPU's area, which KVM would read past.
        """
        if len(xsave.raw) < self._xsave_size:
            raise ValueError(f"need {self._xsave_size} bytes of XSAVE area, not {len(xsave.raw)}")
        self._fd.ioctl_buffer("KVM_SET_XSAVE", xsave.raw)

    def get_xcrs(self) -> Xcrs:
        """KVM_GET_XCRS: the extended control registers."""
        xcrs = Xcrs()
        self._fd.ioctl_buffer("KVM_GET_XCRS", xcrs.raw)
        return xcrs

    def set_xcrs(self, xcrs: Xcrs) -> None:
        """KVM_SET_XCRS."""
        self._fd.ioctl_buffer("KVM_SET_XCRS", xcrs.raw)

    def get_debugregs(self) -> DebugRegs:
        """KVM_GET_DEBUGREGS: the guest's own debug registers."""
        debugregs = DebugRegs()
        self._fd.ioctl_buffer("KVM_GET_DEBUGREGS", debugregs.raw)
        return debugregs

    def set_debugregs(self, debugregs: DebugRegs) -> None:
        """KVM_SET_DEBUGREGS."""
        self._fd.ioctl_buffer("KVM_SET_DEBUGREGS", debugregs.raw)

    def get_lapic(self) -> LapicState:
        """KVM_GET_LAPIC: the in-kernel local APIC's registers."""
        lapic = LapicState()
        self._fd.ioctl_buffer("KVM_GET_LAPIC", lapic.raw)
        return lapic

    def set_lapic(self, lapic: LapicState) -> None:
        """KVM_SET_LAPIC."""
        self._fd.ioctl_buffer("KVM_SET_LAPIC", lapic.raw)

    # -------------------------------------------------------------------------- CPUID and MSRs

    def set_cpuid2(self, entries: Sequence[CpuidEntry]) -> None:
        """KVM_SET_CPUID2: what the guest's CPUID answers; before the first `run()`."""
        packed = _lists.pack("struct kvm_cpuid2", entries)
        self._fd.ioctl_buffer("KVM_SET_CPUID2", packed)
        self._cpuid_entries = len(entries)

    def get_cpuid2(self) -> list[CpuidEntry]:
        """KVM_GET_CPUID2."""
        # With room for just what was set: kernels before 6.4 do not say how much they wrote.
        packed = _lists.pack("struct kvm_cpuid2", [CpuidEntry()] * self._cpuid_entries)
        self._fd.ioctl_buffer("KVM_GET_CPUID2", packed)
        return _lists.unpack("struct kvm_cpuid2", CpuidEntry, packed)

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS: the values of model-specific registers by index.

        Raises:
            MsrError: KVM refuses one of them, and says which.
        """
        entries = self._msrs("KVM_GET_MSRS", (MsrEntry(index=index) for index in indices))
        return {entry.index: entry.data for entry in entries}

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """KVM_SET_MSRS, in the order of `values`.

        Raises:
            MsrError: KVM refuses one of them, and says which; the ones before it are set.
        """
        self._msrs("KVM_SET_MSRS", (MsrEntry(index=i, data=v) for i, v in values.items()))

    def _msrs(self, request: str, entries: Iterable[MsrEntry]) -> list[MsrEntry]:
        done: list[MsrEntry] = []
        rest = iter(entries)
        while batch := list(islice(rest, _MSRS_PER_CALL)):
            packed = _lists.pack("struct kvm_msrs", batch)
            processed = self._fd.ioctl_buffer(request, packed)
            if processed < len(batch):
                raise MsrError(batch[processed].index, request)
            done += _lists.unpack("struct kvm_msrs", MsrEntry, packed)
        return done

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: the rate of the guest's time stamp counter in kHz."""
        return self._fd.ioctl("KVM_GET_TSC_KHZ")

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ."""
        self._fd.ioctl("KVM_SET_TSC_KHZ", khz)

    # --------------------------------------------------------------------- events and debugging

    def get_mp_state(self) -> MpState:
        """KVM_GET_MP_STATE: whether it runs, halts, or waits for its start."""
        state = ffi.new("struct kvm_mp_state *")
        self._fd.ioctl_record("KVM_GET_MP_STATE", state)
        return MpState(state.mp_state)

    def set_mp_state(self, state: MpState) -> None:
        """KVM_SET_MP_STATE."""
        record = ffi.new("struct kvm_mp_state *", {"mp_state": int(state)})
        self._fd.ioctl_record("KVM_SET_MP_STATE", record)

    def get_vcpu_events(self) -> VcpuEvents:
        """KVM_GET_VCPU_EVENTS: exceptions and interrupts on their way into the guest."""
        events = VcpuEvents()
        self._fd.ioctl_buffer("KVM_GET_VCPU_EVENTS", events.raw)
        return events

    def set_vcpu_events(self, events: VcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        self._fd.ioctl_buffer("KVM_SET_VCPU_EVENTS", events.raw)

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT: queues an external interrupt, where there is no in-kernel irqchip."""
        self._fd.ioctl_record("KVM_INTERRUPT", ffi.new("struct kvm_interrupt *", {"irq": vector}))

    def nmi(self) -> None:
        """KVM_NMI: queues a non-maskable interrupt."""
        self._fd.ioctl("KVM_NMI")

    def translate(self, linear_address: int) -> Translation:
        """KVM_TRANSLATE: where the guest's own page tables lead."""
        translation = Translation(linear_address=linear_address)
        self._fd.ioctl_buffer("KVM_TRANSLATE", translation.raw)
        return translation

    def set_guest_debug(self, control: int, debugreg: Sequence[int] = ()) -> None:
        """KVM_SET_GUEST_DEBUG.

        Args:
            control: KVM_GUESTDBG_* flags; 0 switches debugging off.
            debugreg: DR0 to DR7 for hardware breakpoints.
        """
        what = {"control": control, "arch": {"debugreg": list(debugreg)}}
        self._fd.ioctl_record("KVM_SET_GUEST_DEBUG", ffi.new("struct kvm_guest_debug *", what))

    # -------------------------------------------------------------------------------- lifetime

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd.fileno()

    def close(self) -> None:
        """Frees the vCPU; views that were taken from its exits stay readable.

        Raises:
            VcpuBusyError: a thread is inside `run()`; kick it first.
        """
        if lib.kvm_runner_close(self._runner) == lib.KVM_RUNNER_BUSY:
            raise VcpuBusyError
        if not self._fd.close():
            return
        self.run_page.release()
        # A view that somebody kept holds the mapping, which ends with the view.
        with suppress(BufferError):
            self._mapping.close()
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
