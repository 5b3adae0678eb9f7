"""`Kvm`: what /dev/kvm is, in software."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Self

from kvm_ioctls import CpuidEntry, KvmError
from soft_kvm import caps, cpuid, layout, msrs
from soft_kvm.vcpu import RUN_SIZE
from soft_kvm.vm import VmFd

if TYPE_CHECKING:
    from types import TracebackType

    from kvm_ioctls import Cap


class Kvm:
    """The KVM API in software; a context manager.

    Raises:
        EngineError: the Unicorn engine is missing or unusable.
    """

    def __init__(self) -> None:
        layout.find()

    def get_api_version(self) -> int:
        """KVM_GET_API_VERSION: 12, the only one there is."""
        return 12

    def check_extension(self, cap: Cap | int) -> int:
        """KVM_CHECK_EXTENSION; 0 when it is not there."""
        return caps.answer(cap)

    def get_vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE, in bytes."""
        return RUN_SIZE

    def get_nr_vcpus(self) -> int:
        """KVM_CAP_NR_VCPUS."""
        return caps.MAX_VCPUS

    def get_max_vcpus(self) -> int:
        """KVM_CAP_MAX_VCPUS."""
        return caps.MAX_VCPUS

    def get_nr_memslots(self) -> int:
        """KVM_CAP_NR_MEMSLOTS."""
        return caps.MEMSLOTS

    def get_supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID."""
        return cpuid.supported()

    def get_msr_index_list(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST."""
        return list(msrs.KNOWN)

    def create_vm(self, vm_type: int = 0) -> VmFd:
        """KVM_CREATE_VM; only type 0 exists (EINVAL)."""
        if vm_type:
            raise KvmError(errno.EINVAL, "KVM_CREATE_VM")
        return VmFd()

    def close(self) -> None:
        """Nothing is open here; machines live on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
