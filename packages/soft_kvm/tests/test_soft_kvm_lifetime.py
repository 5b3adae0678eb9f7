"""Objects may be closed in any order, at any time; memory is borrowed, never lost."""

from __future__ import annotations

import itertools
import mmap
import os
import threading
from pathlib import Path

import pytest

from kvm_ioctls import (
    Interrupted,
    IoOut,
    Kicker,
    KvmClosedError,
    KvmError,
    MpState,
    MsrError,
    Regs,
    VcpuBusyError,
)
from soft_kvm import Kvm


@pytest.fixture
def parts():
    """A VM, its vCPU and its memory, which hold `out 0x80; jmp $` in real mode at 0."""
    memory = mmap.mmap(-1, 0x10000)
    memory[:4] = bytes.fromhex("e680ebfe")
    vm = Kvm().create_vm()
    vm.set_user_memory_region(0, 0, memory)
    vcpu = vm.create_vcpu(0)
    sregs = vcpu.get_sregs()
    sregs.cs.base = sregs.cs.selector = 0
    vcpu.set_sregs(sregs)
    vcpu.set_regs(Regs(rip=0, rflags=2))
    yield {"vm": vm, "vcpu": vcpu, "memory": memory}
    vcpu.close()
    vm.close()
    memory.close()


@pytest.mark.parametrize("order", list(itertools.permutations(["vm", "vcpu"])))
def test_any_order_of_closing(parts, order):
    """The memory is free when both are closed, and not before."""
    for name in order:
        with pytest.raises(BufferError):
            parts["memory"].close()
        parts[name].close()
    parts["memory"].close()


def test_closing_in_the_middle_of_an_exit(parts):
    """A vCPU that is out with an I/O exit can be thrown away."""
    assert isinstance(parts["vcpu"].run(), IoOut)
    parts["vcpu"].close()
    parts["vm"].close()
    parts["memory"].close()


def test_kicking_while_it_is_closed():
    """A kick reaches a vCPU that is open or says that it is closed.

    The wrong behaviour was a kick of a vCPU that had just been freed.
    """
    for _ in range(50):
        with Kvm().create_vm() as vm:
            vcpu = vm.create_vcpu(0)
            kicker, first, answers = Kicker(vcpu), threading.Event(), []

            def kick(kicker=kicker, first=first, answers=answers) -> None:
                while not answers or answers[-1]:
                    answers.append(kicker.kick())
                    first.set()

            thread = threading.Thread(target=kick)
            thread.start()
            assert first.wait(5)
            vcpu.close()
            thread.join(5)
            assert answers[0]
            assert not answers[-1]


def test_what_is_closed_says_so(parts):
    """Use after close is one typed error."""
    parts["vcpu"].close()
    parts["vm"].close()
    for call in (
        parts["vcpu"].run,
        parts["vcpu"].get_regs,
        parts["vcpu"].kick,
        parts["vm"].get_clock,
    ):
        with pytest.raises(KvmClosedError):
            call()


def test_a_running_vcpu_is_busy(parts):
    """It is neither run twice nor closed under the thread that runs it."""
    parts["vcpu"].run()
    thread = threading.Thread(target=parts["vcpu"].run)
    thread.start()
    try:
        while not parts["vcpu"]._busy:
            pass
        with pytest.raises(VcpuBusyError):
            parts["vcpu"].run()
        with pytest.raises(VcpuBusyError):
            parts["vcpu"].close()
    finally:
        parts["vcpu"].kick()
        thread.join()


def test_a_kick_before_the_run_is_not_lost(parts):
    """The next run() returns at once, once."""
    parts["vcpu"].kick()
    assert isinstance(parts["vcpu"].run(), Interrupted)
    assert isinstance(parts["vcpu"].run(), IoOut)


def test_what_is_forgotten_warns():
    """ResourceWarning, and it is freed."""
    vm = Kvm().create_vm()
    parts = [vm]
    del vm
    with pytest.warns(ResourceWarning, match="unclosed virtual machine"):
        parts.clear()


def test_a_second_vcpu_is_refused(parts):
    """KVM_CAP_MAX_VCPUS is 1: EINVAL, not a surprise later."""
    with pytest.raises(KvmError) as caught:
        parts["vm"].create_vcpu(1)
    assert "KVM_CREATE_VCPU" in str(caught.value)


def test_only_eventfds_are_taken(parts):
    """A pipe is EINVAL, a number that is not open EBADF."""
    parts["vcpu"].close()
    with Kvm().create_vm() as vm:
        vm.create_irq_chip()
        read, write = os.pipe()
        try:
            for fd in (read, 9999):
                with pytest.raises(KvmError):
                    vm.register_irqfd(fd, 4)
        finally:
            os.close(read)
            os.close(write)


def test_small_state_round_trips(parts):
    """mp_state, events, debug registers, MSRs; an unknown MSR is named."""
    vcpu = parts["vcpu"]
    assert vcpu.get_mp_state() is MpState.RUNNABLE
    debugregs = vcpu.get_debugregs()
    debugregs.db[2] = 0x1234
    vcpu.set_debugregs(debugregs)
    assert vcpu.get_debugregs().db[2] == 0x1234
    vcpu.set_msrs({0xC0000082: 0xFFFF_8000_0000_1000, 0x1A0: 1})
    assert vcpu.get_msrs([0xC0000082, 0x1A0]) == {0xC0000082: 0xFFFF_8000_0000_1000, 0x1A0: 0}
    with pytest.raises(MsrError, match="0x12345"):
        vcpu.get_msrs([0x12345])


def test_fifty_machines_one_after_the_other():
    """Nothing accumulates: descriptors are back where they were."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with Kvm().create_vm() as vm, vm.create_vcpu(0):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
