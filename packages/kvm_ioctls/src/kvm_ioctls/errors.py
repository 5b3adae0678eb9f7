"""What can go wrong.

::

    OSError
    └── KvmError            an ioctl failed: `ioctl`, `errno`, `hint`
        ├── KvmUnavailable  /dev/kvm cannot be opened, or is something else: `path`
        └── MsrError        KVM refuses a model-specific register: `index`
    ValueError
    └── KvmClosedError      the object was closed before: `name`
    RuntimeError
    └── VcpuBusyError       another thread is inside the vCPU's run()
"""

from __future__ import annotations

import errno
import os

# (ioctl, errno) -> the way out.  Sources: Documentation/virt/kvm/api.rst, "Errors" of each ioctl.
_HINTS = {
    ("KVM_CREATE_VM", errno.EINVAL): "this KVM has no such type of virtual machine",
    ("KVM_CREATE_VM", errno.EBUSY): "another hypervisor holds the processor's virtualization",
    ("KVM_CREATE_VCPU", errno.EEXIST): "the virtual machine has a vCPU with this id",
    ("KVM_CREATE_VCPU", errno.EINVAL): "the id is beyond KVM_CAP_MAX_VCPU_ID, "
    "or there are more vCPUs than KVM_CAP_MAX_VCPUS",
    ("KVM_CREATE_IRQCHIP", errno.EEXIST): "the virtual machine has an irqchip",
    ("KVM_CREATE_IRQCHIP", errno.EINVAL): "create the irqchip before the first vCPU",
    ("KVM_CREATE_PIT2", errno.ENOENT): "create the irqchip first",
    ("KVM_CREATE_PIT2", errno.EEXIST): "the virtual machine has a timer",
    ("KVM_SET_IDENTITY_MAP_ADDR", errno.EINVAL): "set it before the first vCPU",
    ("KVM_SET_USER_MEMORY_REGION", errno.EEXIST): "it overlaps another slot",
    ("KVM_SET_USER_MEMORY_REGION", errno.EINVAL): "address, size and memory are multiples of the "
    "page size; a slot in use can be moved or deleted, not resized or given other memory",
    ("KVM_GET_DIRTY_LOG", errno.ENOENT): "the slot does not exist or does not log dirty pages",
    ("KVM_IRQ_LINE", errno.ENXIO): "create the irqchip first",
    ("KVM_IRQFD", errno.EINVAL): "irqfds need an irqchip",
    ("KVM_IRQFD", errno.EBUSY): "this eventfd is registered already",
    ("KVM_IOEVENTFD", errno.EEXIST): "this address is registered already",
    ("KVM_IOEVENTFD", errno.ENOENT): "no such registration: unregister with the same arguments",
    ("KVM_GET_LAPIC", errno.EINVAL): "there is no in-kernel local APIC",
    ("KVM_SET_LAPIC", errno.EINVAL): "there is no in-kernel local APIC",
    ("KVM_INTERRUPT", errno.ENXIO): "interrupts come from the in-kernel irqchip",
    ("KVM_SET_SREGS", errno.EINVAL): "no processor can be in this state: "
    "see CR0.PG and PE, EFER.LMA and LME with CR4.PAE, reserved CR4 bits, APIC base",
    ("KVM_SET_CPUID2", errno.EINVAL): "CPUID cannot change once the vCPU has run",
    ("KVM_SET_CPUID2", errno.E2BIG): "too many entries",
    ("KVM_RUN", errno.EFAULT): "the memory behind a slot is gone or cannot be accessed",
    ("KVM_RUN", errno.EIO): "KVM objects belong to the process that made them, not to its children",
}


class KvmError(OSError):
    """An ioctl failed.

    Args:
        code: the errno.
        ioctl: the request's name.
        hint: the way out; by default the one that is known for this request and errno.
    """

    def __init__(self, code: int, ioctl: str, hint: str | None = None) -> None:
        super().__init__(code, os.strerror(code))
        self.ioctl = ioctl
        self.hint = hint if hint is not None else _HINTS.get((ioctl, code), "")

    def __reduce__(self) -> tuple[type[KvmError], tuple[object, ...]]:
        return type(self), (self.errno, self.ioctl, self.hint)

    def __str__(self) -> str:
        code = errno.errorcode.get(self.errno or 0, str(self.errno))
        what = f"{self.ioctl} failed: {self.strerror} ({code})"
        return f"{what}; {self.hint}" if self.hint else what


class KvmUnavailable(KvmError):  # noqa: N818 - a state of the host, not a mistake
    """There is no usable KVM at `path`."""

    def __init__(self, code: int, path: str, hint: str | None = None) -> None:
        known = {
            errno.EACCES: "add yourself to the group kvm, or run as root",
            errno.EPERM: "the sandbox or container forbids the device",
            errno.ENOENT: "load the kernel's kvm module; virtualization may be off in the firmware",
            errno.ENODEV: "the processor or the firmware offers no virtualization",
            errno.ENOTTY: "it is not a KVM device",
        }
        super().__init__(code, "open", hint if hint is not None else known.get(code, ""))
        self.path = path

    def __reduce__(self) -> tuple[type[KvmError], tuple[object, ...]]:
        return type(self), (self.errno, self.path, self.hint)

    def __str__(self) -> str:
        what = f"cannot open {self.path}: {(self.strerror or '').lower()}"
        return f"{what}; {self.hint}" if self.hint else what


class MsrError(KvmError):
    """KVM refuses the model-specific register `index`; the ones before it were processed."""

    def __init__(self, index: int, ioctl: str) -> None:
        super().__init__(errno.EINVAL, ioctl, f"KVM refuses MSR {index:#x}")
        self.index = index

    def __reduce__(self) -> tuple[type[KvmError], tuple[object, ...]]:
        return type(self), (self.index, self.ioctl)


class KvmClosedError(ValueError):
    """The object was closed before."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the {name} is closed")
        self.name = name

    def __reduce__(self) -> tuple[type[KvmClosedError], tuple[object, ...]]:
        return type(self), (self.name,)


class VcpuBusyError(RuntimeError):
    """The vCPU is inside run() on another thread; kick() ends that."""

    def __init__(self) -> None:
        super().__init__("the vCPU is inside run() on another thread; kick() ends that")
