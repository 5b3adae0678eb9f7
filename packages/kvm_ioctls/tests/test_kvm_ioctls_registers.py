"""The real /dev/kvm: registers by structure, by number, and in the run page."""

from __future__ import annotations

import pytest

from kvm_ioctls import (
    Cap,
    Hlt,
    IoOut,
    KvmError,
    MachineCheck,
    NestedState,
    Regs,
    SyncReg,
    msr_register,
    reg_size,
)

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]

HLT = "f4"
STAR = 0xC000_0081


def test_sregs2_tells_the_same_as_sregs(start, needs):
    """The members that both have are equal, and can be set back."""
    needs(Cap.SREGS2)
    vcpu = start(HLT)
    old, new = vcpu.get_sregs(), vcpu.get_sregs2()
    for name in set(old.FIELDS) & set(new.FIELDS):
        assert getattr(old, name) == getattr(new, name), name
    new.cr2 = 0x1234
    vcpu.set_sregs2(new)
    assert vcpu.get_sregs().cr2 == 0x1234


def test_msrs_by_register_number(start, needs):
    """KVM_GET_ONE_REG and KVM_SET_ONE_REG reach what KVM_GET_MSRS does."""
    needs(Cap.ONE_REG)
    vcpu = start(HLT)
    vcpu.set_one_reg(msr_register(STAR), 0x1122_3344_5566_7788)
    assert vcpu.get_msrs([STAR]) == {STAR: 0x1122_3344_5566_7788}
    assert vcpu.get_one_reg(msr_register(STAR)) == 0x1122_3344_5566_7788
    with pytest.raises(KvmError, match="no register of this id"):
        vcpu.get_one_reg(msr_register(0x1234_5678))
    with pytest.raises(ValueError, match="value is 0x0 to 0xffffffffffffffff, not 0x1000000000"):
        vcpu.set_one_reg(msr_register(STAR), 2**64)


def test_the_list_of_registers(start, needs):
    """KVM_GET_REG_LIST fits, however long it is; each of its registers can be read."""
    needs(Cap.ONE_REG)
    vcpu = start(HLT)
    for register in vcpu.get_reg_list():
        vcpu.get_one_reg(register)


def test_sizes_of_registers():
    """The size is in the id: SDM registers have 8 bytes, an arm64 vector register 16."""
    assert reg_size(msr_register(0x10)) == 8
    assert reg_size(0x6040_0000_0010_0054) == 16
    assert msr_register(0x10) == 0x2030_0002_0000_0010


def test_registers_in_the_run_page(start, needs):
    """What was asked for is there after an exit; what was marked goes in with the next run()."""
    needs(Cap.SYNC_REGS)
    vcpu = start("e680b8341290e680f4", rax=0x41)  # out; mov ax, 0x1234; nop; out; hlt
    sync = vcpu.sync_regs
    sync.valid = SyncReg.REGS | SyncReg.SREGS
    assert isinstance(vcpu.run(), IoOut)
    assert sync.valid == SyncReg.REGS | SyncReg.SREGS
    assert sync.regs.rax == 0x41
    assert sync.sregs.cs.base == 0
    assert isinstance(vcpu.run(), IoOut)
    assert sync.regs.rax == 0x1234
    sync.regs.rax = 0x7777
    sync.dirty = SyncReg.REGS
    assert isinstance(vcpu.run(), Hlt)
    assert vcpu.get_regs().rax == 0x7777
    assert sync.dirty == SyncReg(0)


def test_events_in_the_run_page(start, needs):
    """The third kind."""
    needs(Cap.SYNC_REGS)
    vcpu = start(HLT)
    vcpu.sync_regs.valid = SyncReg.EVENTS
    vcpu.run()
    assert vcpu.sync_regs.events == vcpu.get_vcpu_events()


def test_nested_state(start, needs):
    """A guest hypervisor's state is taken out and put back; its size is the record's own."""
    needs(Cap.NESTED_STATE)
    vcpu = start(HLT)
    state = vcpu.get_nested_state()
    assert NestedState.SIZE <= state.size == len(state.raw)
    vcpu.set_nested_state(state)
    assert vcpu.get_nested_state() == state


def test_a_nested_state_that_is_cut_off(start):
    """KVM would read past it."""
    with pytest.raises(ValueError, match="of 4224 bytes has only 128"):
        start(HLT).set_nested_state(NestedState(size=4224))


def test_cpuid_that_is_emulated(kvm, needs):
    """What KVM can do without the processor is a list like any other."""
    needs(Cap.EXT_EMUL_CPUID)
    assert all(entry.function >= 0 for entry in kvm.get_emulated_cpuid())


def test_hyper_v_s_cpuid(kvm, start, needs):
    """Leaves from 0x40000000 on."""
    needs(Cap.SYS_HYPERV_CPUID)
    assert kvm.get_supported_hv_cpuid()[0].function == 0x4000_0000
    assert start(HLT).get_supported_hv_cpuid()[0].function == 0x4000_0000


def test_features_of_the_host(kvm, needs):
    """Every register of the feature list can be read from the system."""
    needs(Cap.GET_MSR_FEATURES)
    indices = kvm.get_msr_feature_index_list()
    assert list(kvm.get_msrs(indices)) == indices


def test_machine_checks(kvm, start, needs):
    """Banks are set up as the system allows, and take a corrected error."""
    needs(Cap.MCE)
    vcpu = start(HLT)
    vcpu.setup_mce(kvm.get_mce_cap_supported() & ~0xFF | 10)
    valid = 1 << 63
    vcpu.set_mce(MachineCheck(status=valid | 5, addr=0x1000, bank=3))
    assert vcpu.get_msrs([0x401 + 4 * 3]) == {0x40D: valid | 5}


def test_enabling_a_capability_of_a_vcpu(start, needs):
    """KVM_ENABLE_CAP on the vCPU."""
    needs(Cap.ENFORCE_PV_FEATURE_CPUID)
    start(HLT).enable_cap(Cap.ENFORCE_PV_FEATURE_CPUID, 1)


def test_system_management_interrupts(start, needs):
    """KVM_SMI is accepted; the vCPU's events have it."""
    needs(Cap.X86_SMM)
    vcpu = start(HLT)
    vcpu.smi()
    assert vcpu.get_vcpu_events().smi.pending == 1


def test_a_time_stamp_counter_s_offset(start, needs):
    """The attribute is there, is read and set; one that is not there is not there."""
    needs(Cap.VCPU_ATTRIBUTES)
    vcpu = start(HLT)
    assert vcpu.has_device_attr(0, 0)
    assert not vcpu.has_device_attr(77, 0)
    vcpu.set_tsc_offset(2**64 - 5)
    if vcpu.get_tsc_offset() == 0:
        pytest.skip("this KVM differs: the offset of the time stamp counter stays 0")
    assert vcpu.get_tsc_offset() == 2**64 - 5


def test_the_guest_was_stopped(start):
    """KVM_KVMCLOCK_CTRL refuses a guest that does not use kvmclock."""
    with pytest.raises(KvmError, match="EINVAL"):
        start(HLT).kvmclock_ctrl()


def test_a_register_dump():
    """What is zero is not there, what is not is in hexadecimal."""
    assert repr(Regs(rax=0x41, rip=0x1000)) == "Regs(rax=0x41, rip=0x1000)"
