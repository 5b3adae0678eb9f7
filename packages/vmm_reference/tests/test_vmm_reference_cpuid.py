"""What the guest's CPUID says, starting from what a hypervisor supports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_ioctls import CpuidEntry
from vmm_reference.arch.x86_64.cpuid import BRAND, build_cpuid

ONES = 0xFFFF_FFFF


def entry(function, index=0, **registers):
    return CpuidEntry(function=function, index=index, **registers)


def full(function, index=0):
    """A leaf with every bit set."""
    return entry(function, index, eax=ONES, ebx=ONES, ecx=ONES, edx=ONES)


def build(*supported, apic_id=0, cpus=1, tsc_deadline=False):
    entries = build_cpuid(supported, apic_id=apic_id, cpus=cpus, tsc_deadline=tsc_deadline)
    return {(e.function, e.index): e for e in entries}


def test_supported_list_is_not_changed():
    """The hypervisor's list serves for every processor."""
    supported = [entry(1), entry(0, eax=0xB)]
    before = [e.copy() for e in supported]
    build(*supported, apic_id=1, cpus=2)
    assert supported == before


def test_hypervisor_and_mtrr_are_always_there():
    """A guest must know that it is one, and MTRRs are as its MSRs say."""
    leaf = build(entry(1))[1, 0]
    assert leaf.ecx == 1 << 31
    assert leaf.edx == 1 << 12


def test_leaf_1_hides_what_is_not_offered():
    """VMX and performance capabilities are taken out, the rest of ECX stays."""
    assert build(full(1))[1, 0].ecx == ONES & ~(1 << 5 | 1 << 15)


@pytest.mark.parametrize("offered", [True, False])
def test_tsc_deadline_is_the_hypervisors_word(offered):
    """TSC-deadline mode shows exactly when the hypervisor has it, though the list does not say."""
    assert bool(build(entry(1), tsc_deadline=offered)[1, 0].ecx & 1 << 24) == offered


@pytest.mark.parametrize(("cpus", "ids"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (255, 255)])
def test_leaf_1_counts_and_numbers_processors(cpus, ids):
    """The APIC id is the processor's; ids per package are a power of two, as far as they fit."""
    leaf = build(entry(1, ebx=0x42), apic_id=cpus - 1, cpus=cpus)[1, 0]
    assert leaf.ebx == (cpus - 1) << 24 | ids << 16 | 8 << 8 | 0x42
    assert bool(leaf.edx & 1 << 28) == (cpus > 1)


def test_one_processor_has_no_hyper_threading_bit():
    """HTT claims more than one id, which a single processor must not."""
    assert not build(full(1))[1, 0].edx & 1 << 28


@pytest.mark.parametrize(
    ("cache", "shared"),
    [(0x21, 0), (0x43, 0), (0x63, 3)],
    ids=["L1", "L2", "L3"],
)
def test_leaf_4_caches(cache, shared):
    """The first two levels are each core's own, the third is shared by all."""
    leaf = build(entry(4, 0, eax=cache | 0x3F << 14), cpus=4)[4, 0]
    assert leaf.eax == cache | shared << 14 | 3 << 26


def test_leaf_4_end_mark_stays():
    """The subleaf that ends the list of caches stays empty."""
    assert build(entry(4, 3), cpus=4)[4, 3].eax == 0


def test_power_and_counters_are_hidden():
    """No turbo, no energy bias, no performance counters."""
    leaves = build(full(6), full(0xA))
    assert leaves[6, 0].eax == ONES & ~2
    assert leaves[6, 0].ecx == ONES & ~8
    assert leaves[0xA, 0] == entry(0xA)


def test_amx_and_waitpkg_are_hidden():
    """AMX needs a permission that the VMM did not ask for; it goes with its XSAVE state."""
    leaves = build(full(7), full(7, 1), full(0xD), full(0x1D), full(0x1E))
    assert leaves[7, 0].ecx == ONES & ~(1 << 5)
    assert leaves[7, 0].edx == ONES & ~(1 << 22 | 1 << 24 | 1 << 25)
    assert leaves[7, 1] == full(7, 1)
    assert leaves[0xD, 0].eax == ONES & ~(3 << 17)
    assert leaves[0x1D, 0] == entry(0x1D)
    assert leaves[0x1E, 0] == entry(0x1E)


def test_svm_is_hidden():
    """Nested virtualization of AMD's kind is not offered either."""
    leaves = build(full(0x8000_0001), full(0x8000_000A))
    assert leaves[0x8000_0001, 0].ecx == ONES & ~4
    assert leaves[0x8000_000A, 0] == entry(0x8000_000A)


def test_address_sizes_stay():
    """Leaf 0x80000008 keeps the address sizes and counts the cores."""
    leaf = build(entry(0x8000_0008, eax=0x3028, ecx=0xFF), cpus=3)[0x8000_0008, 0]
    assert leaf.eax == 0x3028
    assert leaf.ecx == 2 << 12 | 2


def test_amd_topology():
    """One thread per core, one node."""
    leaf = build(full(0x8000_001E), apic_id=2, cpus=4)[0x8000_001E, 0]
    assert (leaf.eax, leaf.ebx, leaf.ecx) == (2, 2, 0)


@pytest.mark.parametrize(("cpus", "shift"), [(1, 0), (2, 1), (3, 2), (4, 2), (9, 4)])
def test_extended_topology(cpus, shift):
    """Leaf 0xb: threads, cores, end; every subleaf says the processor's own id."""
    leaves = build(entry(0, eax=0x1F), full(0xB, 7), entry(0x1F), apic_id=cpus - 1, cpus=cpus)
    for function in (0xB, 0x1F):
        rows = [leaves[function, index] for index in range(3)]
        assert [row.eax for row in rows] == [0, shift, 0]
        assert [row.ebx for row in rows] == [1, cpus, 0]
        assert [row.ecx for row in rows] == [0x100, 0x201, 2]
        assert {row.edx for row in rows} == {cpus - 1}
        assert {row.flags for row in rows} == {1}
    assert (0xB, 7) not in leaves


def test_topology_beyond_the_highest_leaf_is_not_added():
    """What leaf 0 says does not exist is not there."""
    assert {function for function, _ in build(entry(0, eax=0x7), entry(1))} == {0, 1}


def test_brand_is_kept():
    """A brand string that the hypervisor has stays."""
    brand = entry(0x8000_0002, eax=0x41)
    assert build(entry(0x8000_0000, eax=0x8000_0008), brand)[0x8000_0002, 0] == brand


def test_brand_is_made_up_when_there_is_none():
    """An empty brand string is replaced, where the highest leaf allows."""
    leaves = build(entry(0x8000_0000, eax=0x8000_0008), entry(0x8000_0003))
    text = b"".join(
        register.to_bytes(4, "little")
        for function in (0x8000_0002, 0x8000_0003, 0x8000_0004)
        for leaf in [leaves[function, 0]]
        for register in (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)
    )
    assert text.rstrip(b"\0") == BRAND
    assert len(text) == 48


@given(
    st.lists(
        st.builds(
            entry,
            st.sampled_from([0, 1, 4, 6, 7, 0xA, 0xB, 0xD, 0x15, 0x1F, 0x8000_0000, 0x8000_0008]),
            st.integers(0, 3),
            **dict.fromkeys(("eax", "ebx", "ecx", "edx"), st.integers(0, ONES)),
        )
    ),
    st.integers(1, 255),
)
def test_any_supported_list_gives_registers_of_32_bits(supported, cpus):
    """No hypervisor's answer makes a register overflow or an entry vanish without reason."""
    entries = build_cpuid(supported, apic_id=cpus - 1, cpus=cpus, tsc_deadline=True)
    kept = [e for e in entries if e.function not in {0xB, 0x1F} and e.function < 0x8000_0002]
    given_entries = [e for e in supported if e.function not in {0xB, 0x1F}]
    assert len(kept) == len([e for e in given_entries if e.function < 0x8000_0002])
