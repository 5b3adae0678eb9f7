"""What a vCPU's CPUID answers."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvm_ioctls import _lists
from kvm_ioctls._descriptor import Resource
from kvm_ioctls.errors import KvmError
from kvm_ioctls.structs import CpuidEntry

if TYPE_CHECKING:
    from collections.abc import Sequence


class Cpuid(Resource):
    """CPUID."""

    _cpuid_entries = 0

    def set_cpuid2(self, entries: Sequence[CpuidEntry]) -> None:
        """KVM_SET_CPUID2: what the guest's CPUID answers; before the first `run()`."""
        packed = _lists.pack("struct kvm_cpuid2", CpuidEntry, entries)
        self._fd.ioctl_buffer("KVM_SET_CPUID2", packed)
        self._cpuid_entries = _lists.count(packed)

    def get_cpuid2(self) -> list[CpuidEntry]:
        """KVM_GET_CPUID2."""
        # With room for just what was set: kernels before 6.4 do not say how much they wrote.
        packed = _lists.pack("struct kvm_cpuid2", CpuidEntry, [CpuidEntry()] * self._cpuid_entries)
        try:
            self._fd.ioctl_buffer("KVM_GET_CPUID2", packed)
        except KvmError as error:
            if error.errno != errno.E2BIG:
                raise
            # Somebody else set it: through another descriptor, that this one was copied from.
            return _lists.fetch_cpuid(self._fd, "KVM_GET_CPUID2")
        return _lists.unpack("struct kvm_cpuid2", CpuidEntry, packed)

    def get_supported_hv_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_HV_CPUID: the Hyper-V leaves that this vCPU could show."""
        return _lists.fetch_cpuid(self._fd, "KVM_GET_SUPPORTED_HV_CPUID")
