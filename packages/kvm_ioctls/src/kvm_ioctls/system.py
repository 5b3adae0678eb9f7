"""/dev/kvm: what this machine's KVM can do, and the making of virtual machines."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Self

from kvm_ioctls import _lists
from kvm_ioctls._arguments import unsigned
from kvm_ioctls._descriptor import Descriptor, adopt
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls._msrs import ReadableMsrs
from kvm_ioctls.caps import Cap
from kvm_ioctls.devices import DeviceAttributes
from kvm_ioctls.errors import KvmError, KvmUnavailable
from kvm_ioctls.vm import VmFd, twin_of

if TYPE_CHECKING:
    from kvm_ioctls.protocols import Hypervisor
    from kvm_ioctls.structs import CpuidEntry


class Kvm(ReadableMsrs, DeviceAttributes):
    """An open /dev/kvm; a context manager.

    Args:
        path: the device.

    Raises:
        KvmUnavailable: it cannot be opened, is not KVM, or speaks another version of its API.
    """

    def __init__(self, path: str | os.PathLike[str] = "/dev/kvm") -> None:
        name = os.fspath(path)
        try:
            number = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise KvmUnavailable(error.errno or 0, name) from None
        self._fd = Descriptor(number, "Kvm")
        self._check_version(name)

    @classmethod
    def from_fd(cls, number: int) -> Self:
        """Takes over an open descriptor of /dev/kvm, from a parent or a socket for instance.

        Raises:
            KvmUnavailable: it is not open, or something else, and closed now.
        """
        made = cls.__new__(cls)
        try:
            made._fd = adopt(number, "Kvm")  # noqa: SLF001 - our own
        except KvmError as error:
            raise KvmUnavailable(error.errno or 0, f"file descriptor {number}") from None
        made._check_version(f"file descriptor {number}")  # noqa: SLF001 - our own
        return made

    def _check_version(self, name: str) -> None:
        try:
            version = self.get_api_version()
        except KvmError as error:
            self.close()
            raise KvmUnavailable(error.errno or 0, name) from None
        if version != lib.KVM_API_VERSION:
            self.close()
            raise KvmUnavailable(
                errno.EPROTONOSUPPORT,
                name,
                f"it speaks version {version} of the API instead of {lib.KVM_API_VERSION}",
            )

    def get_api_version(self) -> int:
        """KVM_GET_API_VERSION: 12 since 2007."""
        return self._fd.ioctl("KVM_GET_API_VERSION")

    def check_extension(self, cap: Cap | int) -> int:
        """KVM_CHECK_EXTENSION: 0 when `cap` is not there, else 1 or a number that says more."""
        return self._fd.ioctl("KVM_CHECK_EXTENSION", cap, "cap")

    def get_vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE: the size in bytes of a vCPU's shared mapping."""
        return self._fd.ioctl("KVM_GET_VCPU_MMAP_SIZE")

    def get_nr_vcpus(self) -> int:
        """How many vCPUs are recommended at most; 4 where KVM does not say."""
        return self.check_extension(Cap.NR_VCPUS) or 4

    def get_max_vcpus(self) -> int:
        """How many vCPUs are possible at most; as many as recommended where KVM does not say."""
        return self.check_extension(Cap.MAX_VCPUS) or self.get_nr_vcpus()

    def get_nr_memslots(self) -> int:
        """How many memory slots a virtual machine can have; 32 where KVM does not say."""
        return self.check_extension(Cap.NR_MEMSLOTS) or 32

    def get_max_vcpu_id(self) -> int:
        """The first id that no vCPU can have; as many as vCPUs where KVM does not say."""
        return self.check_extension(Cap.MAX_VCPU_ID) or self.get_max_vcpus()

    def get_supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID: what host and KVM together can give a guest."""
        return _lists.fetch_cpuid(self._fd, "KVM_GET_SUPPORTED_CPUID")

    def get_emulated_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_EMULATED_CPUID: what KVM can give without the host having it, but slowly."""
        return _lists.fetch_cpuid(self._fd, "KVM_GET_EMULATED_CPUID")

    def get_supported_hv_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_HV_CPUID: the Hyper-V leaves that a guest can be shown."""
        return _lists.fetch_cpuid(self._fd, "KVM_GET_SUPPORTED_HV_CPUID")

    def get_msr_index_list(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST: the model-specific registers that make up a guest's state."""
        return _lists.fetch_indices(self._fd, "KVM_GET_MSR_INDEX_LIST")

    def get_msr_feature_index_list(self) -> list[int]:
        """KVM_GET_MSR_FEATURE_INDEX_LIST: the registers that describe the host's features.

        `get_msrs()` of this object reads them.
        """
        return _lists.fetch_indices(self._fd, "KVM_GET_MSR_FEATURE_INDEX_LIST")

    def get_mce_cap_supported(self) -> int:
        """KVM_X86_GET_MCE_CAP_SUPPORTED: the bits that `VcpuFd.setup_mce()` takes."""
        value = ffi.new("__u64 *")
        self._fd.ioctl_record("KVM_X86_GET_MCE_CAP_SUPPORTED", value)
        return int(value[0])

    def get_host_ipa_limit(self) -> int:
        """arm64: how many bits a guest physical address can have."""
        return self.check_extension(Cap.ARM_VM_IPA_SIZE)

    def get_guest_debug_hw_bps(self) -> int:
        """arm64: how many hardware breakpoints guest debugging has."""
        return self.check_extension(Cap.GUEST_DEBUG_HW_BPS)

    def get_guest_debug_hw_wps(self) -> int:
        """arm64: how many hardware watchpoints guest debugging has."""
        return self.check_extension(Cap.GUEST_DEBUG_HW_WPS)

    def create_vm(self, vm_type: int = 0) -> VmFd:
        """KVM_CREATE_VM: a machine without memory and vCPUs.

        Args:
            vm_type: x86: KVM_CAP_VM_TYPES has the possible ones in its bits; arm64: how many bits a
                guest physical address has, 0 for 40.
        """
        value = unsigned("vm_type", vm_type, 64)
        return self._vm(self._fd.make("KVM_CREATE_VM", "VmFd", value))

    def vm_from_fd(self, number: int) -> VmFd:
        """Takes over an open descriptor of a machine.

        Where this process has an object of the same machine, both have the same slots; those of a
        machine from elsewhere are not known here.

        Raises:
            KvmError: EBADF: it is not open; ENOTTY: it is no machine's, and closed now; of kcmp:
                there are machines, and the kernel does not tell whether this is one of them.
        """
        fd = adopt(number, "VmFd")
        try:
            fd.ioctl("KVM_CHECK_EXTENSION", Cap.USER_MEMORY)
        except KvmError as error:
            fd.close()
            hint = f"file descriptor {number} is no virtual machine"
            raise KvmError(error.errno or 0, error.ioctl, hint) from None
        try:
            twin = twin_of(fd)
        except BaseException:
            fd.close()
            raise
        return self._vm(fd, twin)

    def _vm(self, fd: Descriptor, twin: VmFd | None = None) -> VmFd:
        try:
            return VmFd(fd, self.get_vcpu_mmap_size(), twin)
        except BaseException:
            fd.close()
            raise


if TYPE_CHECKING:
    # The type checker compares the three classes with the three protocols here.
    _SATISFIES: type[Hypervisor] = Kvm
