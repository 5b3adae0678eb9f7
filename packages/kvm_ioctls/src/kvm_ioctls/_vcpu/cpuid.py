"""What a vCPU's CPUID answers."""

from __future__ import annotations

import errno
from bisect import bisect_left
from typing import TYPE_CHECKING

from kvm_ioctls import _lists
from kvm_ioctls._descriptor import Resource
from kvm_ioctls.errors import KvmError
from kvm_ioctls.structs import CpuidEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_ENTRIES = 256
"""KVM_MAX_CPUID_ENTRIES (arch/x86/include/asm/kvm_host.h)."""


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
        try:
            packed = self._read_cpuid(self._cpuid_entries)
        except KvmError as error:
            if error.errno != errno.E2BIG:
                raise
            packed = self._read_cpuid(self._count_cpuid())
        return _lists.unpack("struct kvm_cpuid2", CpuidEntry, packed)

    def _count_cpuid(self) -> int:
        """How many entries somebody else set, through the descriptor that this one is a copy of.

        Kernels before 6.4 do not say how many they wrote, but refuse where there is less room.
        """
        return bisect_left(range(_MOST_ENTRIES), True, key=self._is_room_for_cpuid)

    def _is_room_for_cpuid(self, entries: int) -> bool:
        try:
            self._read_cpuid(entries)
        except KvmError as error:
            if error.errno != errno.E2BIG:
                raise
            return False
        return True

    def _read_cpuid(self, room: int) -> bytearray:
        packed = _lists.pack("struct kvm_cpuid2", CpuidEntry, [CpuidEntry()] * room)
        self._fd.ioctl_buffer("KVM_GET_CPUID2", packed)
        return packed

    def get_supported_hv_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_HV_CPUID: the Hyper-V leaves that this vCPU could show."""
        return _lists.fetch_cpuid(self._fd, "KVM_GET_SUPPORTED_HV_CPUID")
