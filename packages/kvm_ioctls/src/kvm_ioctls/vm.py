"""A virtual machine: its parts, its vCPUs, and its lifetime."""

from __future__ import annotations

from weakref import WeakSet

from kvm_ioctls import _run
from kvm_ioctls._arguments import unsigned
from kvm_ioctls._descriptor import Descriptor, adopt
from kvm_ioctls._slots import SlotTable
from kvm_ioctls._vm.arm64 import Arm64Vm
from kvm_ioctls._vm.clock import Clock
from kvm_ioctls._vm.confidential import EncryptedMemory
from kvm_ioctls._vm.dirty import DirtyPages
from kvm_ioctls._vm.interrupts import Interrupts
from kvm_ioctls._vm.io_events import IoEvents
from kvm_ioctls._vm.irqchip import InterruptControllers
from kvm_ioctls._vm.memory import Memory
from kvm_ioctls._vm.paravirtual import Paravirtual
from kvm_ioctls._vm.policy import Policy
from kvm_ioctls.caps import Cap
from kvm_ioctls.devices import Devices
from kvm_ioctls.errors import KvmError
from kvm_ioctls.rings import RingSetup
from kvm_ioctls.stats import Statistics
from kvm_ioctls.vcpu import VcpuFd


class VmFd(
    Memory,
    DirtyPages,
    InterruptControllers,
    Interrupts,
    IoEvents,
    Clock,
    Policy,
    Devices,
    Statistics,
    EncryptedMemory,
    Paravirtual,
    Arm64Vm,
):
    """A virtual machine, made by `Kvm.create_vm()`; a context manager.

    It borrows the memory of its slots: while one of the machine or its vCPUs is open, closing an
    `mmap` under a slot raises `BufferError`.  Machine, vCPUs and device may be closed in any order.
    """

    def __init__(self, fd: Descriptor, vcpu_mmap_size: int, twin: VmFd | None = None) -> None:
        self._fd = fd
        self._vcpu_mmap_size = vcpu_mmap_size
        self._slots = SlotTable() if twin is None else twin._slots  # noqa: SLF001 - our own
        self._hold = self._slots.hold()
        self._rings = RingSetup() if twin is None else twin._rings  # noqa: SLF001 - our own
        _MACHINES.add(self)

    @property
    def run_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE: the size in bytes of the mapping of each of its vCPUs."""
        return self._vcpu_mmap_size

    def check_extension(self, cap: Cap | int) -> int:
        """KVM_CHECK_EXTENSION for this machine; can differ from the system's answer."""
        return self._fd.ioctl("KVM_CHECK_EXTENSION", cap, "cap")

    def create_vcpu(self, vcpu_id: int) -> VcpuFd:
        """KVM_CREATE_VCPU; on x86 `vcpu_id` becomes its APIC id."""
        value = unsigned("vcpu_id", vcpu_id, 32)
        return self._vcpu(self._fd.make("KVM_CREATE_VCPU", f"VcpuFd {vcpu_id}", value))

    def vcpu_from_fd(self, number: int, vcpu_id: int) -> VcpuFd:
        """Takes over an open descriptor of one of this machine's vCPUs."""
        return self._vcpu(adopt(number, f"VcpuFd {vcpu_id}"))

    def _vcpu(self, fd: Descriptor) -> VcpuFd:
        try:
            xsave_size = self.check_extension(Cap.XSAVE2)
            return VcpuFd(fd, self._vcpu_mmap_size, self._slots, xsave_size, self._rings)
        except BaseException:
            fd.close()
            raise

    def close(self) -> None:
        """Closes the machine; the kernel keeps it, and its memory, until its vCPUs are closed."""
        if self._fd.close():
            self._hold.leave()


#: All that there are: the slots of a machine are its own, however many objects it has.
_MACHINES: WeakSet[VmFd] = WeakSet()


def twin_of(fd: Descriptor) -> VmFd | None:
    """The object that has the same machine, if there is one: a dirty log is as long as its slot.

    Raises:
        KvmError: the kernel does not tell.
    """
    for machine in list(_MACHINES):
        other = machine._fd.number  # noqa: SLF001 - our own
        try:
            if other >= 0 and _run.same_file(other, fd.fileno()):
                return machine
        except OSError as error:
            hint = "it is not known whether this machine has an object already"
            raise KvmError(error.errno or 0, "kcmp", hint) from None
    return None
