"""What can go wrong.

::

    OSError
    └── KvmError            an ioctl failed: `ioctl`, `errno`, `hint`
        ├── KvmUnavailable  /dev/kvm cannot be opened, or is something else: `path`
        └── MsrError        KVM refuses a model-specific register: `index`
    ValueError
    └── KvmClosedError      the object was closed before: `name`
    RuntimeError
    ├── VcpuBusyError       another thread is inside the vCPU's run()
    └── NotImplementedError
        └── NotInHeaderError  the build's kernel header does not have it: `name`
"""

from __future__ import annotations

import errno
import os

from kvm_ioctls.requests import CAPABILITIES

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
    ("KVM_SET_CPUID2", errno.ENOENT): "too many entries",
    ("KVM_SET_DEVICE_ATTR", errno.ENXIO): "there is no such attribute",
    ("KVM_GET_DEVICE_ATTR", errno.ENXIO): "there is no such attribute",
    ("KVM_HAS_DEVICE_ATTR", errno.ENXIO): "there is no such attribute",
    ("KVM_SET_DEVICE_ATTR", errno.ENOENT): "there is no such attribute",
    ("KVM_GET_DEVICE_ATTR", errno.ENOENT): "there is no such attribute",
    ("KVM_CREATE_DEVICE", errno.ENODEV): "this KVM has no device of this type",
    ("KVM_CREATE_DEVICE", errno.EEXIST): "the virtual machine has this device",
    ("KVM_GET_ONE_REG", errno.ENOENT): "this vCPU has no register of this id",
    ("KVM_SET_ONE_REG", errno.ENOENT): "this vCPU has no register of this id",
    ("KVM_GET_ONE_REG", errno.EINVAL): "this vCPU has no register of this id",
    ("KVM_SET_ONE_REG", errno.EINVAL): "this vCPU has no register of this id, or not this value",
    ("KVM_CLEAR_DIRTY_LOG", errno.EINVAL): "the first page is a multiple of 64, and so is the "
    "number of pages unless they reach the slot's end",
    ("KVM_CLEAR_DIRTY_LOG", errno.ENOENT): "the slot does not exist or does not log dirty pages",
    ("KVM_GET_DIRTY_LOG", errno.ENXIO): "dirty pages go to the vCPUs' rings",
    ("KVM_SET_SIGNAL_MASK", errno.EINVAL): "the mask is not as long as the kernel's",
    ("KVM_X86_SET_MSR_FILTER", errno.EINVAL): "a filter that denies by default needs ranges",
    ("KVM_SET_PMU_EVENT_FILTER", errno.E2BIG): "a filter has at most 300 events",
    ("KVM_SET_NESTED_STATE", errno.EINVAL): "the state is another processor's, or not consistent",
    ("KVM_XEN_HVM_EVTCHN_SEND", errno.EINVAL): "the machine has no Xen event channels",
    ("KVM_GET_IRQCHIP", errno.ENXIO): "there is no in-kernel irqchip",
    ("KVM_SET_IRQCHIP", errno.ENXIO): "there is no in-kernel irqchip",
    ("KVM_GET_PIT2", errno.ENXIO): "there is no in-kernel timer",
    ("KVM_SET_PIT2", errno.ENXIO): "there is no in-kernel timer",
    ("KVM_REINJECT_CONTROL", errno.ENXIO): "there is no in-kernel timer",
    ("KVM_SET_BOOT_CPU_ID", errno.EBUSY): "set it before the first vCPU",
    ("KVM_RUN", errno.EFAULT): "the memory behind a slot is gone or cannot be accessed",
    ("KVM_RUN", errno.EIO): "KVM objects belong to the process that made them, not to its children",
}


# errno -> what it means whichever request it is
_GENERAL = {
    errno.ENOTTY: "this KVM has no such request",
    errno.EPERM: "the sandbox or a security module forbids it",
    errno.ENOMEM: "the host's memory, or this process's share of it, is used up",
}


class KvmError(OSError):
    """An ioctl failed.

    Args:
        code: the errno.
        ioctl: the request's name.
        hint: the way out; by default the one that is known for this request and errno.
        arguments: what the request was asked, in short.
    """

    def __init__(self, code: int, ioctl: str, hint: str | None = None, arguments: str = "") -> None:
        super().__init__(code, os.strerror(code))
        self.ioctl = ioctl
        self.hint = hint if hint is not None else _hint(ioctl, code)
        self.arguments = arguments

    def __reduce__(self) -> tuple[type[KvmError], tuple[object, ...]]:
        return type(self), (self.errno, self.ioctl, self.hint, self.arguments)

    def __str__(self) -> str:
        code = errno.errorcode.get(self.errno or 0, str(self.errno))
        call = f"{self.ioctl}({self.arguments})" if self.arguments else self.ioctl
        what = f"{call} failed: {self.strerror} ({code})"
        return f"{what}; {self.hint}" if self.hint else what


def _hint(ioctl: str, code: int) -> str:
    """The way out of a request that failed with errno `code`."""
    if (ioctl, code) in _HINTS:
        return _HINTS[ioctl, code]
    if code == errno.ENOTTY and ioctl in CAPABILITIES:
        return f"this KVM has no such request: it comes with KVM_CAP_{CAPABILITIES[ioctl]}"
    return _GENERAL.get(code, "")


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


class NotInHeaderError(NotImplementedError):
    """The kernel header that this package was built with does not have `name`.

    It is of another architecture; what is merely newer than the header is known regardless.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"kvm_ioctls was built with a kernel header that has no {name}")
        self.name = name

    def __reduce__(self) -> tuple[type[NotInHeaderError], tuple[object, ...]]:
        return type(self), (self.name,)


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
