"""Filters of model-specific registers and performance events: records first, then the real KVM."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_ioctls import Cap, Hlt, IoOut, KvmError, MsrExitReason, MsrFilterRange, X86Rdmsr, X86Wrmsr
from kvm_ioctls._ffi import ffi

STAR = 0xC000_0081


@settings(deadline=None)
@given(st.integers(0, 2**32 - 5000), st.sets(st.integers(0, 999)), st.integers(1000, 1100))
def test_bits_are_the_allowed_registers(base, offsets, nmsrs):
    """Bit n is register base + n."""
    made = MsrFilterRange.allowing(base, nmsrs, {base + offset for offset in offsets})
    bits = int.from_bytes(made.bitmap, "little")
    assert {n for n in range(nmsrs) if bits >> n & 1} == offsets
    record = made.record(ffi.new("__u8[]", made.bitmap))
    assert (record["base"], record["nmsrs"], record["flags"]) == (base, nmsrs, 3)


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(0, 250))
def test_a_bitmap_that_is_too_short_is_refused(nmsrs, length):
    """KVM would read past it: it takes a bit for each register, in bytes."""
    made = MsrFilterRange(0, nmsrs, bytes(length))
    if length * 8 >= nmsrs:
        made.record(ffi.NULL)
    else:
        with pytest.raises(ValueError, match=f"{nmsrs} registers need more than {length} bytes"):
            made.record(ffi.NULL)


def test_ranges_that_cannot_be():
    """No registers, too many registers, and registers that are not in the range."""
    with pytest.raises(ValueError, match="1 to 12288 registers, not 0"):
        MsrFilterRange(0, 0, b"").record(ffi.NULL)
    with pytest.raises(ValueError, match="not 12289"):
        MsrFilterRange(0, 12289, bytes(2000)).record(ffi.NULL)
    with pytest.raises(ValueError, match="MSR 0x20 is not in 0x10 to 0x1f"):
        MsrFilterRange.allowing(0x10, 0x10, [0x20])


@pytest.mark.kvm
def test_more_ranges_than_kvm_takes(vm):
    """It is said before KVM is asked."""
    ranges = [MsrFilterRange.allowing(n, 1) for n in range(17)]
    with pytest.raises(ValueError, match="at most 16 ranges, not 17"):
        vm.set_msr_filter(ranges)


@pytest.mark.kvm
def test_denying_everything_is_refused(vm, needs):
    """EINVAL says why."""
    needs(Cap.X86_MSR_FILTER)
    with pytest.raises(KvmError, match="denies by default needs ranges"):
        vm.set_msr_filter([], default_allow=False)


@pytest.mark.kvm
@pytest.mark.timeout(30)
def test_a_filtered_register_comes_to_us(vm, start, needs):
    """Reading STAR is our exit, its neighbour LSTAR is KVM's; writing is an exit as well."""
    needs(Cap.X86_MSR_FILTER)
    vm.enable_cap(Cap.X86_USER_SPACE_MSR, MsrExitReason.FILTER)
    vm.set_msr_filter([MsrFilterRange.allowing(STAR, 2, [STAR + 1])])
    # rdmsr; out 0x80, al; inc ecx; rdmsr; dec ecx; wrmsr; hlt
    vcpu = start("0f32e68066410f3266490f30f4", rcx=STAR)
    exit_ = vcpu.run()
    assert isinstance(exit_, X86Rdmsr)
    assert (exit_.reason, exit_.index) == (MsrExitReason.FILTER, STAR)
    exit_.data = 0x55
    exit_ = vcpu.run()
    assert isinstance(exit_, IoOut)
    assert bytes(exit_.data) == b"\x55"
    exit_ = vcpu.run()
    assert isinstance(exit_, X86Wrmsr)
    assert exit_.index == STAR
    assert isinstance(vcpu.run(), Hlt)


@pytest.mark.kvm
def test_performance_events(vm, needs):
    """Lists are accepted, too long ones refused by KVM."""
    needs(Cap.PMU_EVENT_FILTER)
    vm.set_pmu_event_filter([0xC0, 0x3C], allow=True)
    vm.set_pmu_event_filter([], allow=False, fixed_counter_bitmap=1)
    with pytest.raises(KvmError, match="E2BIG"):
        vm.set_pmu_event_filter(range(301), allow=True)
