"""Model-specific registers as a kernel expects them at its entry."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

IA32_TIME_STAMP_COUNTER = 0x10
IA32_SYSENTER_CS = 0x174
IA32_SYSENTER_ESP = 0x175
IA32_SYSENTER_EIP = 0x176
IA32_MISC_ENABLE = 0x1A0
IA32_MTRR_DEF_TYPE = 0x2FF
STAR = 0xC000_0081
LSTAR = 0xC000_0082
CSTAR = 0xC000_0083
SYSCALL_MASK = 0xC000_0084
KERNEL_GS_BASE = 0xC000_0102

_FAST_STRING_ENABLE = 1 << 0
_MTRR_ENABLE = 1 << 11
_MTRR_WRITE_BACK = 6

BOOT_MSRS: Mapping[int, int] = MappingProxyType(
    {
        IA32_SYSENTER_CS: 0,
        IA32_SYSENTER_ESP: 0,
        IA32_SYSENTER_EIP: 0,
        STAR: 0,
        LSTAR: 0,
        CSTAR: 0,
        SYSCALL_MASK: 0,
        KERNEL_GS_BASE: 0,
        IA32_TIME_STAMP_COUNTER: 0,
        IA32_MISC_ENABLE: _FAST_STRING_ENABLE,
        # Without it Linux warns that memory is uncacheable and disables its MTRR code.
        IA32_MTRR_DEF_TYPE: _MTRR_ENABLE | _MTRR_WRITE_BACK,
    }
)
"""Index to value, in the order in which they are set; the same on every processor.

CPUID is set first: newer kernels answer MSR accesses by the guest's CPUID.
"""
