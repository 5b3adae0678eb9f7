"""What the guest's CPUID instruction answers.

The start is what the hypervisor supports; the rest is what only a VMM knows: which processor this
is, how many there are, and what it does not offer. The machine is one package of single-threaded
cores. Leaves are described in SDM vol. 2A, CPUID, and AMD APM vol. 3 appendix E.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kvm_ioctls import CpuidEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BRAND = b"py-vmm virtual processor"
"""Shown when the hypervisor has no brand string to offer; up to 47 bytes."""

_SIGNIFICANT_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the leaf has subleaves

_CLFLUSH_QUADWORDS = 8

# Leaf 1.
_ECX_VMX = 1 << 5
_ECX_PDCM = 1 << 15
_ECX_TSC_DEADLINE = 1 << 24
_ECX_HYPERVISOR = 1 << 31
_EDX_MTRR = 1 << 12
_EDX_HTT = 1 << 28
# Leaf 6.
_EAX_TURBO = 1 << 1
_ECX_ENERGY_BIAS = 1 << 3
# Leaf 7.
_ECX_WAITPKG = 1 << 5
_EDX_AMX = 1 << 22 | 1 << 24 | 1 << 25
# Leaf 0xd.
_XCR0_AMX = 1 << 17 | 1 << 18
# Leaf 0x80000001.
_ECX_SVM = 1 << 2

_LEVEL_SMT = 1
_LEVEL_CORE = 2


def build_cpuid(
    supported: Sequence[CpuidEntry], *, apic_id: int, cpus: int, tsc_deadline: bool
) -> list[CpuidEntry]:
    """Return the CPUID of one processor.

    Args:
        supported: what the hypervisor supports; not changed.
        apic_id: this processor's local APIC id.
        cpus: how many processors the machine has.
        tsc_deadline: whether the hypervisor's local APIC timer has TSC-deadline mode. KVM does not
            say so in `supported`, since the local APIC could be the VMM's.
    """
    entries = [CpuidEntry.from_bytes(bytes(entry)) for entry in supported]
    for entry in entries:
        patch = _PATCHES.get(entry.function)
        if patch is not None:
            patch(entry, apic_id, cpus)
        if entry.function == 1 and tsc_deadline:
            entry.ecx |= _ECX_TSC_DEADLINE
    _set_topology(entries, apic_id, cpus)
    _set_brand(entries)
    return entries


def _id_bits(cpus: int) -> int:
    """Return how many bits of an APIC id tell the processors of the package apart."""
    return (cpus - 1).bit_length()


def _patch_features(entry: CpuidEntry, apic_id: int, cpus: int) -> None:
    ids = 1 << _id_bits(cpus)
    entry.ebx = apic_id << 24 | min(ids, 0xFF) << 16 | _CLFLUSH_QUADWORDS << 8 | entry.ebx & 0xFF
    entry.ecx = entry.ecx & ~(_ECX_VMX | _ECX_PDCM) | _ECX_HYPERVISOR
    entry.edx |= _EDX_MTRR
    if cpus > 1:
        entry.edx |= _EDX_HTT
    else:
        entry.edx &= ~_EDX_HTT


def _patch_intel_caches(entry: CpuidEntry, _apic_id: int, cpus: int) -> None:
    if entry.eax & 0x1F:  # cache type 0: no more caches
        cores = min((1 << _id_bits(cpus)) - 1, 0x3F)  # six bits; leaf 0xb has the truth
        entry.eax = entry.eax & 0x3FFF | _cache_sharing(entry, cpus) | cores << 26


def _patch_amd_caches(entry: CpuidEntry, _apic_id: int, cpus: int) -> None:
    if entry.eax & 0x1F:
        entry.eax = entry.eax & 0x3FFF | _cache_sharing(entry, cpus)


def _cache_sharing(entry: CpuidEntry, cpus: int) -> int:
    """Return bits 25:14: levels 1 and 2 are a core's own, level 3 is everybody's."""
    level = entry.eax >> 5 & 7
    return ((1 << _id_bits(cpus)) - 1 if level >= 3 else 0) << 14


def _patch_power(entry: CpuidEntry, _apic_id: int, _cpus: int) -> None:
    entry.eax &= ~_EAX_TURBO
    entry.ecx &= ~_ECX_ENERGY_BIAS


def _patch_extended_features(entry: CpuidEntry, _apic_id: int, _cpus: int) -> None:
    if entry.index == 0:
        entry.ecx &= ~_ECX_WAITPKG
        entry.edx &= ~_EDX_AMX


def _patch_xsave(entry: CpuidEntry, _apic_id: int, _cpus: int) -> None:
    """Take out AMX: its state needs a permission that this process did not ask for."""
    if entry.index == 0:
        entry.eax &= ~_XCR0_AMX


def _patch_zero(entry: CpuidEntry, _apic_id: int, _cpus: int) -> None:
    entry.eax = entry.ebx = entry.ecx = entry.edx = 0


def _patch_amd_features(entry: CpuidEntry, _apic_id: int, _cpus: int) -> None:
    entry.ecx &= ~_ECX_SVM


def _patch_amd_sizes(entry: CpuidEntry, _apic_id: int, cpus: int) -> None:
    """Leave the address sizes; say how many cores there are and how wide their id is."""
    entry.ecx = _id_bits(cpus) << 12 | (cpus - 1)


def _patch_amd_topology(entry: CpuidEntry, apic_id: int, _cpus: int) -> None:
    entry.eax = apic_id
    entry.ebx = apic_id & 0xFF  # one thread per core: the core's id is the processor's
    entry.ecx = 0  # node 0, one node


_PATCHES: dict[int, Callable[[CpuidEntry, int, int], None]] = {
    0x1: _patch_features,
    0x4: _patch_intel_caches,
    0x6: _patch_power,
    0x7: _patch_extended_features,
    0xA: _patch_zero,  # no performance counters
    0xD: _patch_xsave,
    0x1D: _patch_zero,  # AMX again
    0x1E: _patch_zero,
    0x8000_0001: _patch_amd_features,
    0x8000_0008: _patch_amd_sizes,
    0x8000_000A: _patch_zero,  # SVM
    0x8000_001D: _patch_amd_caches,
    0x8000_001E: _patch_amd_topology,
}


def _set_topology(entries: list[CpuidEntry], apic_id: int, cpus: int) -> None:
    """Write leaves 0xb and 0x1f anew, where the highest leaf lets the guest see them."""
    highest = next((e.eax for e in entries if e.function == 0), 0)
    had = {e.function for e in entries}
    entries[:] = [e for e in entries if e.function not in {0xB, 0x1F}]
    if highest >= 0xB:
        entries += _topology(0xB, apic_id, cpus)
    if highest >= 0x1F and 0x1F in had:
        entries += _topology(0x1F, apic_id, cpus)


def _topology(function: int, apic_id: int, cpus: int) -> list[CpuidEntry]:
    rows = (
        (0, 1, _LEVEL_SMT),  # the next level's id starts at bit 0; one thread per core
        (_id_bits(cpus), cpus, _LEVEL_CORE),
        (0, 0, 0),
    )
    return [
        CpuidEntry(
            function=function,
            index=index,
            flags=_SIGNIFICANT_INDEX,
            eax=shift,
            ebx=count,
            ecx=level << 8 | index,
            edx=apic_id,
        )
        for index, (shift, count, level) in enumerate(rows)
    ]


def _set_brand(entries: list[CpuidEntry]) -> None:
    brand = [e for e in entries if 0x8000_0002 <= e.function <= 0x8000_0004]
    if any(e.eax or e.ebx or e.ecx or e.edx for e in brand):
        return
    highest = next((e.eax for e in entries if e.function == 0x8000_0000), 0)
    if highest < 0x8000_0004:
        return
    entries[:] = [e for e in entries if e not in brand]
    words = struct.unpack("<12I", BRAND.ljust(48, b"\0"))
    for i in range(3):
        eax, ebx, ecx, edx = words[4 * i : 4 * i + 4]
        entries.append(CpuidEntry(function=0x8000_0002 + i, eax=eax, ebx=ebx, ecx=ecx, edx=edx))
