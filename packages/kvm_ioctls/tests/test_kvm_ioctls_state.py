"""The real /dev/kvm: a vCPU's state is taken out, put back, and felt by the guest."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from kvm_ioctls import Cap, Hlt, Interrupted, IoOut, KvmError, MpState, VcpuEvents

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]

HLT = "f4"
KVMCLOCK = 0x4B56_4D01  # MSR_KVM_SYSTEM_TIME_NEW: Documentation/virt/kvm/x86/msr.rst


@pytest.mark.parametrize(
    ("name", "cap"),
    [
        ("regs", Cap.USER_MEMORY),
        ("sregs", Cap.USER_MEMORY),
        ("fpu", Cap.USER_MEMORY),
        ("xsave", Cap.XSAVE),
        ("xcrs", Cap.XCRS),
        ("debugregs", Cap.DEBUGREGS),
        ("vcpu_events", Cap.VCPU_EVENTS),
    ],
)
def test_state_round_trips(start, needs, name, cap):
    """What was read can be written, and is read again."""
    needs(cap)
    vcpu = start(HLT)
    state = getattr(vcpu, f"get_{name}")()
    getattr(vcpu, f"set_{name}")(state)
    assert getattr(vcpu, f"get_{name}")() == state


def test_an_xsave_area_where_kvm_has_no_longer_one(start, needs, monkeypatch):
    """Without KVM_CAP_XSAVE2 the older request gives what its 4096 bytes hold."""
    needs(Cap.XSAVE)
    vcpu = start(HLT)
    whole = bytes(vcpu.get_xsave())
    monkeypatch.setattr(vcpu, "_xsave_size", 0)
    assert bytes(vcpu.get_xsave()) == whole[:4096]
    vcpu.set_xsave(vcpu.get_xsave())


def test_debug_registers_are_the_guest_s(start, needs):
    """Mov eax, dr1 reads what was set."""
    needs(Cap.DEBUGREGS)
    vcpu = start("0f21c8f4")
    debugregs = vcpu.get_debugregs()
    debugregs.db[1] = 0x1234_5678
    vcpu.set_debugregs(debugregs)
    assert isinstance(vcpu.run(), Hlt)
    assert vcpu.get_regs().rax == 0x1234_5678


def test_cpuid_is_what_was_set(kvm, start):
    """KVM_GET_CPUID2 gives the entries back, and the guest sees leaf 0."""
    entries = kvm.get_supported_cpuid()
    for leaf in entries:
        if leaf.function == 0:
            leaf.ebx = 0x1122_3344
    vcpu = start("6631c00fa2f4")  # xor eax, eax; cpuid; hlt
    vcpu.set_cpuid2(entries)
    assert [(e.function, e.index) for e in vcpu.get_cpuid2()] == [
        (e.function, e.index) for e in entries
    ]
    assert isinstance(vcpu.run(), Hlt)
    assert vcpu.get_regs().rbx == 0x1122_3344


def test_an_exception_on_its_way(vm, start):
    """An injected #UD runs the guest's handler of vector 6."""
    vm.memory[6 * 4 : 6 * 4 + 4] = b"\0\x20\0\0"
    vm.memory[0x2000:0x2003] = bytes.fromhex("e680f4")
    vcpu, events = start("90f4"), VcpuEvents()
    events.exception.injected, events.exception.nr = 1, 6
    vcpu.set_vcpu_events(events)
    exit_ = vcpu.run()
    assert isinstance(exit_, IoOut)
    assert exit_.port == 0x80


@pytest.mark.parametrize(("vector", "raise_it"), [(2, "nmi"), (0x24, "interrupt")])
def test_interrupts_without_controllers(vm, start, vector, raise_it):
    """KVM_NMI and KVM_INTERRUPT run the guest's handlers."""
    vm.memory[vector * 4 : vector * 4 + 4] = b"\0\x20\0\0"
    vm.memory[0x2000:0x2003] = bytes.fromhex("e680f4")
    vcpu = start("9090f4", rflags=0x202)
    if raise_it == "nmi":
        vcpu.nmi()
    else:
        vcpu.interrupt(vector)
    exit_ = vcpu.run()
    assert isinstance(exit_, IoOut)
    assert exit_.port == 0x80


def test_an_application_processor_s_state(kvm):
    """It waits for its start, until somebody says otherwise."""
    with kvm.create_vm() as vm:
        vm.create_irq_chip()
        with vm.create_vcpu(0), vm.create_vcpu(1) as second:
            assert second.get_mp_state() is MpState.UNINITIALIZED
            second.set_mp_state(MpState.RUNNABLE)
            assert second.get_mp_state() is MpState.RUNNABLE


def test_a_guest_with_kvmclock_is_told_that_it_was_stopped(start, needs):
    """KVM_KVMCLOCK_CTRL succeeds once the guest has its clock."""
    needs(Cap.KVMCLOCK_CTRL)
    vcpu = start("9090f4")
    vcpu.set_msrs({KVMCLOCK: 0x5001})
    vcpu.run()
    vcpu.kvmclock_ctrl()


def test_masked_signals_wait(start):
    """A blocked signal does not end run(); it is taken afterwards. The kick is never blocked."""
    taken = []
    former = signal.signal(signal.SIGUSR1, lambda *_: taken.append(time.monotonic()))
    vcpu = start("ebfe")
    vcpu.set_signal_mask([signal.SIGUSR1, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)])
    me = threading.get_ident()
    timers = [
        threading.Timer(0.1, signal.pthread_kill, (me, signal.SIGUSR1)),
        threading.Timer(0.4, vcpu.kick),
    ]
    began = time.monotonic()
    for timer in timers:
        timer.start()
    try:
        assert isinstance(vcpu.run(), Interrupted)
        assert time.monotonic() - began >= 0.3
        for timer in timers:
            timer.join()
        assert len(taken) == 1
        vcpu.set_signal_mask(None)
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_signals_end_a_run(start):
    """Without a mask the signal does, and Python's handler has run by the time it is looked at."""
    taken = []
    former = signal.signal(signal.SIGUSR1, lambda *_: taken.append(1))
    vcpu = start("ebfe")
    timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    timer.start()
    try:
        assert isinstance(vcpu.run(), Interrupted)
        timer.join()
        assert taken == [1]
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_processor_that_cannot_be(start):
    """The error has the request, what was asked, and where to look."""
    vcpu = start(HLT)
    sregs = vcpu.get_sregs()
    sregs.cr0 = 0x8000_0000
    with pytest.raises(KvmError, match=r"KVM_SET_SREGS\(Sregs\(.*CR0.PG and PE"):
        vcpu.set_sregs(sregs)
