"""Names for the bits of arguments; a plain number does as well everywhere.

Source: Documentation/virt/kvm/api.rst, under the request that each class names.
"""

from __future__ import annotations

from enum import IntFlag

from kvm_ioctls._ffi import lib


class MemoryFlag(IntFlag):
    """What a memory slot is like (`VmFd.set_user_memory_region()`)."""

    LOG_DIRTY_PAGES = lib.KVM_MEM_LOG_DIRTY_PAGES
    READONLY = lib.KVM_MEM_READONLY
    GUEST_MEMFD = lib.KVM_MEM_GUEST_MEMFD


class GuestMemfdFlag(IntFlag):
    """What a guest_memfd is like (`VmFd.create_guest_memfd()`)."""

    MMAP = lib.GUEST_MEMFD_FLAG_MMAP
    INIT_SHARED = lib.GUEST_MEMFD_FLAG_INIT_SHARED


class GuestDebug(IntFlag):
    """How a guest is debugged (`VcpuFd.set_guest_debug()`)."""

    ENABLE = lib.KVM_GUESTDBG_ENABLE
    SINGLESTEP = lib.KVM_GUESTDBG_SINGLESTEP
    USE_SW_BP = lib.KVM_GUESTDBG_USE_SW_BP
    USE_HW_BP = lib.KVM_GUESTDBG_USE_HW_BP
    INJECT_DB = lib.KVM_GUESTDBG_INJECT_DB
    INJECT_BP = lib.KVM_GUESTDBG_INJECT_BP
    BLOCKIRQ = lib.KVM_GUESTDBG_BLOCKIRQ


class MsrExitReason(IntFlag):
    """Which accesses to model-specific registers are exits (KVM_CAP_X86_USER_SPACE_MSR)."""

    INVAL = lib.KVM_MSR_EXIT_REASON_INVAL
    UNKNOWN = lib.KVM_MSR_EXIT_REASON_UNKNOWN
    FILTER = lib.KVM_MSR_EXIT_REASON_FILTER


class ClockFlag(IntFlag):
    """What a `ClockData` has (`VmFd.get_clock()`)."""

    TSC_STABLE = lib.KVM_CLOCK_TSC_STABLE
    REALTIME = lib.KVM_CLOCK_REALTIME
    HOST_TSC = lib.KVM_CLOCK_HOST_TSC
