"""The KVM API in software.

`Kvm`, `VmFd` and `VcpuFd` are twins of `kvm_ioctls`': the same methods, structures, exits and
errnos, over an emulated processor (the Unicorn engine, QEMU's TCG as a library) instead of the
hardware's.  A VMM written against `kvm_ioctls.Hypervisor` takes either and cannot tell, except by
the clock.  So a stock Linux boots where there is no /dev/kvm, or one that cannot run it.

What KVM refuses is refused here with the same errno; `EngineError` alone is new: no usable engine.
"""

from soft_kvm.errors import EngineError, UnknownLayout
from soft_kvm.system import Kvm
from soft_kvm.vcpu import VcpuFd
from soft_kvm.vm import VmFd

__all__ = ["EngineError", "Kvm", "UnknownLayout", "VcpuFd", "VmFd"]
