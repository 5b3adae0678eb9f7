"""What the emulated processor says of itself.

Features are the engine's own, asked of the engine, less those that it emulates badly or slowly.
The rest is policy, with its reason beside it.  The guest sees what KVM_SET_CPUID2 was given.
"""

from __future__ import annotations

import struct
from functools import cache

from kvm_ioctls import CpuidEntry
from soft_kvm._ffi import lib
from soft_kvm.layout import Scratch

TSC_KHZ = 1_000_000
"""The time stamp counter's frequency: nanoseconds, so that it needs no arithmetic."""

PHYS_BITS = 39
"""Guest physical address bits (SK_PHYS_BITS of the C part)."""

_INDEXED = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX
_RAX, _RBX, _RCX, _RDX = 35, 37, 38, 40  # uc_x86_reg


def _bits(*numbers: int) -> int:
    return sum(1 << n for n in numbers)


# Intel SDM vol. 2A, CPUID.  What is taken away from the engine's answer, and why.
_LEAF1_ECX_HIDDEN = _bits(
    3,  # MONITOR: would never wake
    5,  # VMX
    17,  # PCID: the engine flushes everything anyway
    21,  # x2APIC: its registers are MSRs, whose accesses the engine does not report
    24,  # TSC-deadline: likewise
    26, 27,  # XSAVE: no XCR0 in the engine's public state; FXSAVE is also cheaper
    28, 29,  # AVX, F16C: not in the engine
)  # fmt: skip
_LEAF1_ECX_SHOWN = _bits(31)  # a hypervisor is present
_LEAF1_EDX_HIDDEN = _bits(
    11,  # SYSENTER: the engine has none
    7, 14,  # machine checks: no banks
    21, 22, 29,  # debug store, thermal
    28,  # hyper-threading
)  # fmt: skip
_LEAF1_EDX_SHOWN = _bits(9)  # local APIC
_LEAF7_EBX_HIDDEN = _bits(
    4, 11,  # transactional memory
    5,  # AVX2
    9,  # enhanced REP MOVSB: the engine executes one iteration per block, 60 ns each
    10,  # INVPCID, of no use without PCID
    14,  # MPX
)  # fmt: skip
# TSC_ADJUST: Linux takes a constant counter that has it for what it is, reliable; without it, a
# watchdog compares the counter with its own late ticks and condemns the counter.
_LEAF7_EBX_SHOWN = _bits(1)
_EXTENDED_ECX_HIDDEN = _bits(2)  # SVM

# Family 6, model 28 (Bonnell), stepping 10: an in-order core.  The emulator executes in order, so
# a guest that knows its processors leaves out the mitigations for speculation, as it should.
_SIGNATURE = 0x000106CA
_BRAND = b"py-vmm soft_kvm processor"
_MAX_BASIC = 0x16


def _ask(scratch: Scratch, function: int, index: int = 0) -> tuple[int, int, int, int]:
    """Executes CPUID in the engine."""
    scratch.memory[0x800:0x803] = b"\x0f\xa2\xf4"  # cpuid; hlt
    scratch.write(_RAX, struct.pack("<Q", function))
    scratch.write(_RCX, struct.pack("<Q", index))
    lib.sk_uc.emu_start(scratch.uc, 0x800, 0, 0, 0)
    eax, ebx, ecx, edx = (scratch.read(register) for register in (_RAX, _RBX, _RCX, _RDX))
    return eax, ebx, ecx, edx


def _entry(function: int, eax: int, ebx: int, ecx: int, edx: int) -> CpuidEntry:
    return CpuidEntry(function=function, eax=eax, ebx=ebx, ecx=ecx, edx=edx)


def _text(function: int, text: bytes) -> CpuidEntry:
    return _entry(function, *struct.unpack("<4I", text.ljust(16, b"\0")))


def _basic(scratch: Scratch) -> list[CpuidEntry]:
    _, ebx, ecx, edx = _ask(scratch, 0)
    vendor = _entry(0, _MAX_BASIC, ebx, ecx, edx)
    _, ebx, ecx, edx = _ask(scratch, 1)
    features = _entry(
        1,
        _SIGNATURE,
        (ebx & 0x0000FF00) | 1 << 16,  # CLFLUSH size; one logical processor; APIC id 0
        (ecx & ~_LEAF1_ECX_HIDDEN) | _LEAF1_ECX_SHOWN,
        (edx & ~_LEAF1_EDX_HIDDEN) | _LEAF1_EDX_SHOWN,
    )
    _, ebx, ecx, edx = _ask(scratch, 7)
    structured = _entry(7, 0, (ebx & ~_LEAF7_EBX_HIDDEN) | _LEAF7_EBX_SHOWN, 0, 0)
    structured.flags = _INDEXED
    # Time stamp counter and crystal frequencies: without them a guest calibrates against a timer,
    # which emulation makes too uneven. The crystal is also the local APIC timer's clock.
    clocks = [
        _entry(0x15, 1, 1, TSC_KHZ * 1000, 0),
        _entry(0x16, TSC_KHZ // 1000, TSC_KHZ // 1000, 100, 0),
    ]
    return [vendor, features, structured, *clocks]


def _extended(scratch: Scratch) -> list[CpuidEntry]:
    _, _, ecx, edx = _ask(scratch, 0x80000001)
    brand = _BRAND.ljust(48, b"\0")
    return [
        _entry(0x80000000, 0x80000008, 0, 0, 0),
        _entry(0x80000001, 0, 0, ecx & ~_EXTENDED_ECX_HIDDEN, edx),
        *(_text(0x80000002 + n, brand[16 * n : 16 * n + 16]) for n in range(3)),
        _entry(0x80000007, 0, 0, 0, _bits(8)),  # invariant time stamp counter
        _entry(0x80000008, PHYS_BITS | 48 << 8, 0, 0, 0),
    ]


@cache
def _supported() -> tuple[CpuidEntry, ...]:
    scratch = Scratch()
    try:
        return (*_basic(scratch), *_extended(scratch))
    finally:
        scratch.close()


def supported() -> list[CpuidEntry]:
    """KVM_GET_SUPPORTED_CPUID: the caller's own copies."""
    return [entry.copy() for entry in _supported()]
