"""A virtual processor: its parts, running and stopping it, and its lifetime."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from kvm_ioctls import _run
from kvm_ioctls._arguments import elements, within, wrong_type
from kvm_ioctls._capabilities import Capabilities
from kvm_ioctls._ffi import lib
from kvm_ioctls._mapping import mapped
from kvm_ioctls._msrs import Msrs
from kvm_ioctls._run import Runner
from kvm_ioctls._vcpu.arm64 import Arm64Vcpu
from kvm_ioctls._vcpu.clock import VcpuClock
from kvm_ioctls._vcpu.cpuid import Cpuid
from kvm_ioctls._vcpu.debug import Debugging
from kvm_ioctls._vcpu.events import Events
from kvm_ioctls._vcpu.lapic import LocalApic
from kvm_ioctls._vcpu.nested import Nested
from kvm_ioctls._vcpu.one_reg import OneReg
from kvm_ioctls._vcpu.paravirtual import ParavirtualVcpu
from kvm_ioctls._vcpu.registers import Registers
from kvm_ioctls._vcpu.rings import Rings
from kvm_ioctls._vm.confidential import Encryption
from kvm_ioctls.errors import KvmClosedError, KvmError, VcpuBusyError
from kvm_ioctls.exits import Interrupted
from kvm_ioctls.run_page import RunPage
from kvm_ioctls.stats import Statistics
from kvm_ioctls.sync_regs import SyncRegs
from kvm_ioctls.zones import Zone

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from kvm_ioctls._descriptor import Descriptor
    from kvm_ioctls._slots import SlotTable
    from kvm_ioctls.exits import Exit
    from kvm_ioctls.rings import RingSetup

_SIGNALS = 64  # bits of the kernel's signal set
_CHILD = "a vCPU belongs to the process that made it, not to its children"


def kick_signal() -> int:
    """The signal that kicks vCPU threads.

    Chosen once per process, when the first vCPU is made or this is first called: the first
    real-time signal whose action is still the default, from SIGRTMIN up.  Its handler is in C and
    does nothing, with SA_RESTART.  A thread unblocks it when it runs a vCPU for the first time, and
    must not block it afterwards: without it, a kick waits until the guest exits by itself.
    """
    number = _run.kick_signal()
    if number < 0:
        raise KvmError(-number, "sigaction", "no real-time signal is free to kick vCPUs with")
    return number


class VcpuFd(
    Runner,
    Registers,
    Msrs,
    Cpuid,
    Events,
    LocalApic,
    Debugging,
    VcpuClock,
    OneReg,
    Nested,
    Rings,
    Statistics,
    Capabilities,
    Encryption,
    ParavirtualVcpu,
    Arm64Vcpu,
):
    """A virtual processor, made by `VmFd.create_vcpu()`; a context manager.

    One thread at a time may run it.  `kick()` is for every thread; all other calls wait in the
    kernel while the vCPU runs.

    Attributes:
        run_page: the page shared with the kernel.
    """

    def __init__(
        self,
        fd: Descriptor,
        mmap_size: int,
        slots: SlotTable,
        xsave_size: int,
        rings: RingSetup,
    ) -> None:
        self._fd = fd
        self._xsave_size = xsave_size
        self._rings = rings
        self._mapping = mapped(fd.fileno(), mmap_size)
        self.run_page = RunPage(self._mapping)
        Runner.__init__(self, fd.fileno(), self.run_page)
        kick_signal()
        self._hold = slots.hold()

    def _without_exit(self, result: int) -> Exit:
        """What `run()` makes of a KVM_RUN that failed."""
        if result == -errno.EINTR:
            return Interrupted()
        if result == _run.CLOSED:
            raise KvmClosedError(self._fd.name)
        if result == _run.BUSY:
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

        Raises:
            KvmError: EIO in a child of the process that made the vCPU; EAGAIN when this user's
                other processes have queued all signals that RLIMIT_SIGPENDING allows.
        """
        self._check(self._kick(), "kick")

    @property
    def immediate_exit(self) -> bool:
        """Makes the next `run()` return `Interrupted` before the guest executes anything.

        Input and output that is under way is completed.
        """
        self.fileno()  # a closed vCPU has no page
        return self.run_page.immediate_exit

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.fileno()
        self.run_page.immediate_exit = value

    def set_zones(self, zones: Iterable[Zone]) -> None:
        """Which accesses `run()` retires without returning; replaces those of the last call.

        Args:
            zones: where they overlap, the first one counts.

        The vCPU borrows their memory.

        Raises:
            VcpuBusyError: the vCPU is running.
        """
        given = elements("zones", zones)
        for zone in given:
            if not isinstance(zone, Zone):
                raise wrong_type("a zone", "a Zone", zone)
        self._check(self._set_zones([zone.record() for zone in given]), "set_zones")

    def _check(self, result: int, what: str) -> None:
        """Raises what the runner's answer stands for."""
        if result == _run.CLOSED:
            raise KvmClosedError(self._fd.name)
        if result == _run.BUSY:
            raise VcpuBusyError
        if result < 0:
            raise KvmError(-result, what, _CHILD if result == -errno.EIO else None)

    @property
    def sync_regs(self) -> SyncRegs:
        """Registers in the run page; see `SyncRegs`."""
        self.fileno()
        return SyncRegs(self.run_page.raw)

    def set_signal_mask(self, blocked: Iterable[int] | None) -> None:
        """KVM_SET_SIGNAL_MASK: which signals wait while the guest runs; None: as in the thread.

        The mask counts from the next `run()` on.  It takes effect at the moment the guest is
        entered, so no signal falls between.  The kick's signal is never blocked.
        """
        self.fileno()  # a closed vCPU has none
        if blocked is None:
            self._set_mask(None)
            return
        numbers = {within("a signal", one, 1, _SIGNALS) for one in elements("blocked", blocked)}
        self._set_mask(sum(1 << (number - 1) for number in numbers - {kick_signal()}))

    def close(self) -> None:
        """Frees the vCPU; the views of its last exit are released, as the next `run()` does.

        Raises:
            VcpuBusyError: a thread is inside `run()`; kick it first.
        """
        if self._close() == _run.BUSY:
            raise VcpuBusyError
        if not self._fd.close():
            return
        self.run_page.release()
        # A view that somebody kept holds the mapping, which ends with the view.
        with suppress(BufferError):
            self._mapping.close()
        self._hold.leave()

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
