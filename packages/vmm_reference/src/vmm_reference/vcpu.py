"""A virtual processor: its start-up state, its thread, and what its exits lead to.

A vCPU's thread does nothing but run the guest and hand its accesses to the buses; no lock is held
across ``run()``. What it cannot handle ends the machine, through `on_end`, with the reason.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from kvm_ioctls.exits import (
    FailEntry,
    Hlt,
    InternalError,
    Interrupted,
    IoIn,
    IoOut,
    MmioRead,
    MmioWrite,
    Shutdown,
    SystemEvent,
)
from vmm_reference.arch.x86_64 import msrs, registers
from vmm_reference.exit_codes import EndKind, VmExit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvm_ioctls import CpuidEntry
    from kvm_ioctls.exits import Exit
    from kvm_ioctls.protocols import Vcpu
    from vmm_reference.bus import Bus

logger = logging.getLogger(__name__)

# KVM_SYSTEM_EVENT_* (Documentation/virt/kvm/api.rst §5, KVM_EXIT_SYSTEM_EVENT).
_SYSTEM_EVENTS = {1: EndKind.POWERED_OFF, 2: EndKind.RESET, 3: EndKind.PANIC}


def configure(vcpu: Vcpu, cpuid: Sequence[CpuidEntry], entry: int | None) -> None:
    """Put a new vCPU into the state in which a kernel expects it.

    The order matters: newer kernels answer MSR accesses by the guest's CPUID, so that comes first.

    Args:
        vcpu: a vCPU that has not run.
        cpuid: its CPUID.
        entry: guest physical address of the kernel's entry for the boot processor; None for the
            others, which stay in their reset state until the boot processor starts them.
    """
    vcpu.set_cpuid2(cpuid)
    vcpu.set_msrs(msrs.BOOT_MSRS)
    if entry is not None:
        vcpu.set_regs(registers.boot_regs(entry))
    vcpu.set_fpu(registers.boot_fpu())
    if entry is not None:
        sregs = vcpu.get_sregs()
        registers.set_boot_sregs(sregs)
        vcpu.set_sregs(sregs)
    lapic = vcpu.get_lapic()
    registers.set_boot_lint(lapic)
    vcpu.set_lapic(lapic)


class VcpuThread:
    """Runs one vCPU until it is stopped or its machine ends.

    Args:
        index: its number, for messages.
        vcpu: the vCPU, configured.
        pio: where its port accesses go.
        mmio: where its accesses to what is not memory go.
        on_end: called, on its thread, with the reason why the machine cannot go on.
    """

    def __init__(
        self, index: int, vcpu: Vcpu, pio: Bus, mmio: Bus, on_end: Callable[[VmExit], object]
    ) -> None:
        self._index = index
        self._vcpu = vcpu
        self._pio = pio
        self._mmio = mmio
        self._on_end = on_end
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=f"vcpu{index}", daemon=True)

    def start(self) -> None:
        """Start to run the guest."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; from any thread, the vCPU's own too."""
        self._stopping = True
        if threading.current_thread() is not self._thread:
            self._vcpu.kick()

    def join(self, timeout: float) -> bool:
        """Wait for the thread, up to `timeout` seconds; return whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            end = self._run()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the machine's owner must hear of it
            end = VmExit(EndKind.ERROR, f"vCPU {self._index}: {error}", error=error)
        if end is not None:
            self._on_end(end)

    def _run(self) -> VmExit | None:
        """Run the guest until something ends it; None if that was `stop`."""
        run = self._vcpu.run
        pio, mmio = self._pio, self._mmio
        while not self._stopping:
            left = run()
            match left:  # the most frequent first
                case IoOut(port, _, 1, data):
                    pio.write(port, data)
                case IoIn(port, _, 1, data):
                    pio.read(port, data)
                case MmioWrite(address, data):
                    mmio.write(address, data)
                case MmioRead(address, data):
                    mmio.read(address, data)
                case IoOut() | IoIn():
                    self._string_io(left)
                case Interrupted():
                    pass
                case _:
                    return self._end(left)
        return None

    def _string_io(self, left: IoOut | IoIn) -> None:
        """Do a repeated access, one element after the other on the same port."""
        access = self._pio.write if isinstance(left, IoOut) else self._pio.read
        for start in range(0, left.size * left.count, left.size):
            access(left.port, left.data[start : start + left.size])

    def _end(self, left: Exit) -> VmExit:
        """Say what an exit that no device can answer means for the machine."""
        match left:
            case Shutdown():
                return VmExit(EndKind.TRIPLE_FAULT, f"on vCPU {self._index}")
            case SystemEvent(type=event) if event in _SYSTEM_EVENTS:
                return VmExit(_SYSTEM_EVENTS[event])
            case InternalError():
                what = str(left)
            case FailEntry(reason=reason):
                what = f"the processor refuses the guest's state (reason {reason:#x})"
            case Hlt():
                what = "it halted, and there is no interrupt controller to wake it"
            case _:
                what = f"unexpected exit {left!r}"
        detail = f"vCPU {self._index}{self._where()}: {what}"
        return VmExit(EndKind.HYPERVISOR_FAILED, detail)

    def _where(self) -> str:
        try:
            return f" at rip {self._vcpu.get_regs().rip:#x}"
        except OSError:
            return ""
