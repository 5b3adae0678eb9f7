"""The real /dev/kvm: what the ioctls do, and what lives how long."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from mmap import mmap

import pytest

from kvm_ioctls import (
    Cap,
    Debug,
    GuestDebug,
    Hlt,
    Interrupted,
    IoOut,
    IrqWindowOpen,
    Kvm,
    KvmClosedError,
    KvmError,
    MemoryFlag,
    MpState,
    MsrError,
    MsrExitReason,
    Regs,
    VcpuBusyError,
    X86Rdmsr,
    X86Wrmsr,
    Xsave,
    kick_signal,
)
from kvm_ioctls._ffi import lib

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]

HLT = "f4"
SPIN = "ebfe"
OUT_HLT = "e6e0f4"


# -------------------------------------------------------------------------------------- the system


def test_the_system_s_numbers(kvm):
    """Version, limits and lists are plausible."""
    assert kvm.get_api_version() == 12
    assert kvm.get_vcpu_mmap_size() >= 4096
    assert 1 <= kvm.get_nr_vcpus() <= kvm.get_max_vcpus()
    assert kvm.get_nr_memslots() >= 32
    assert kvm.check_extension(Cap.USER_MEMORY) == 1
    assert kvm.check_extension(0x7FFF_FFFF) == 0
    assert {e.function for e in kvm.get_supported_cpuid()} >= {0, 1, 0x80000000}
    assert 0x10 in kvm.get_msr_index_list()


def test_a_descriptor_from_elsewhere(kvm):
    """from_fd() takes over a descriptor and closes it."""
    fd = os.dup(kvm.fileno())
    with Kvm.from_fd(fd) as other:
        assert other.get_api_version() == 12
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_machine_outlives_its_system(kvm):
    """The device may be closed first."""
    with Kvm.from_fd(os.dup(kvm.fileno())) as other:
        vm = other.create_vm()
    vcpu = vm.create_vcpu(0)
    assert vcpu.get_regs().rip == 0xFFF0
    vcpu.close()
    vm.close()


# ---------------------------------------------------------------------------------------- lifetimes


def test_forgetting_to_close_warns(kvm):
    """ResourceWarning names what was forgotten, and it is closed all the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vm = kvm.create_vm()
        vcpu = vm.create_vcpu(3)
        fds = [vm.fileno(), vcpu.fileno()]
        del vm, vcpu
        gc.collect()
    assert sorted(str(w.message) for w in caught) == ["unclosed VcpuFd 3", "unclosed VmFd"]
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_every_descriptor_is_closed(kvm):
    """A machine with a vCPU leaves nothing open."""
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vcpu.get_regs()
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - names are enough


def test_a_failed_creation_leaves_nothing_open(kvm, monkeypatch):
    """Not even when the mapping fails."""
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    with kvm.create_vm() as vm:
        monkeypatch.setattr("kvm_ioctls.vcpu.mapped", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vm.create_vcpu(0)
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - names are enough


def test_memory_is_held_until_machine_and_vcpus_are_closed(kvm):
    """Either of them keeps the borrow."""
    for first, second in (0, 1), (1, 0):
        memory = mmap(-1, 0x1000)
        vm = kvm.create_vm()
        vm.set_user_memory_region(0, 0, memory)
        both = [vm, vm.create_vcpu(0)]
        both[first].close()
        with pytest.raises(BufferError):
            memory.close()
        both[second].close()
        memory.close()


def test_calls_after_close(kvm):
    """KvmClosedError with the object's name, again and again."""
    vm = kvm.create_vm()
    vcpu = vm.create_vcpu(0)
    page = vcpu.run_page
    for thing in vcpu, vm, kvm:
        thing.close()
        thing.close()
    for call, name in [
        (vcpu.run, "VcpuFd 0"),
        (vcpu.kick, "VcpuFd 0"),
        (vcpu.get_regs, "VcpuFd 0"),
        (vcpu.fileno, "VcpuFd 0"),
        (vm.create_irq_chip, "VmFd"),
        (kvm.create_vm, "Kvm"),
    ]:
        with pytest.raises(KvmClosedError, match=name):
            call()
    with pytest.raises(ValueError, match="released"):
        page.decode()


def test_a_view_of_an_exit_survives_close(start):
    """Its bytes stay readable, the mapping ends with it."""
    vcpu = start(OUT_HLT, rax=0x41)
    data = memoryview(vcpu.run().data)
    vcpu.close()
    assert bytes(data) == b"A"


def test_the_next_run_takes_the_views_back(start):
    """An exit and a view that were kept say so, instead of showing what the guest did since."""
    vcpu = start("e680e681f4", rax=0x41)
    exit_ = vcpu.run()
    data = exit_.data
    assert bytes(data) == b"A"
    other = vcpu.run()
    assert (exit_.port, other.port) == (0x80, 0x81)
    with pytest.raises(ValueError, match="valid until the next run"):
        bytes(exit_.data)
    with pytest.raises(ValueError, match="released"):
        bytes(data)
    assert repr(exit_) == "IoOut(port=0x80, size=0x1, count=0x1, data=expired)"
    assert bytes(other.data) == b"A"


def test_views_end_with_the_vcpu(start):
    """close() takes them back as run() does."""
    vcpu = start("e680f4")
    exit_ = vcpu.run()
    vcpu.close()
    with pytest.raises(ValueError, match="valid until"):
        bytes(exit_.data)


def test_one_thread_at_a_time(start):
    """A second run(), and close(), during a run are VcpuBusyError; a kick helps."""
    vcpu = start(SPIN)
    seen = []
    runner = threading.Thread(target=lambda: seen.append(type(vcpu.run())))
    runner.start()
    time.sleep(0.05)
    for call in vcpu.run, vcpu.close:
        with pytest.raises(VcpuBusyError):
            call()
    vcpu.kick()
    runner.join(5)
    assert seen == [Interrupted]


def test_an_exception_in_a_cycle_does_not_crash_the_collector(start):
    """The wrong behaviour was a crash: an exception's traceback held a borrow for C."""
    vcpu = start(HLT)
    for _ in range(20):
        sregs = vcpu.get_sregs()
        sregs.cr0 = 0x80000010
        with pytest.raises(KvmError) as caught:
            vcpu.set_sregs(sregs)
        cycle = [caught, caught.value]
        cycle.append(cycle)
        del cycle, caught
    gc.collect()


# -------------------------------------------------------------------------------- kicks and signals


def test_the_kick_signal_is_a_free_real_time_signal():
    """Somebody else's signal is left alone: the next free one is taken."""
    code = (
        "import signal, kvm_ioctls as k\n"
        "signal.signal(signal.SIGRTMIN, signal.SIG_IGN)\n"
        "print(k.kick_signal() - signal.SIGRTMIN, k.kick_signal() == k.kick_signal())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["1", "True"]
    assert signal.SIGRTMIN <= kick_signal() <= signal.SIGRTMAX


def test_kicking_a_thread_that_blocks_signals(start):
    """run() lets the kick signal through, whatever mask the thread inherited."""
    vcpu = start(SPIN)
    seen = []

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        seen.append(type(vcpu.run()))

    runner = threading.Thread(target=run)
    runner.start()
    time.sleep(0.05)
    vcpu.kick()
    runner.join(5)
    assert seen == [Interrupted]


def test_kicks_do_not_disturb_python(start):
    """A stray kick signal neither runs a Python handler nor ends a system call."""
    start(HLT)
    timer = threading.Timer(0.02, signal.pthread_kill, (threading.get_ident(), kick_signal()))
    timer.start()
    begin = time.monotonic()
    time.sleep(0.1)
    timer.join()
    assert time.monotonic() - begin >= 0.1


def test_two_busy_vcpus_progress_together(vm, start):
    """Each waits for a byte that the other one writes: this ends only if both run at once."""
    # loop: mov al, [bx]; test al, al; jz loop; mov [si], al; hlt
    wait_then_write = "8a0784c074fa8804f4"
    vm.memory[0x8000:0x8002] = b"\0\0"
    # mov byte [0x8000], 1; then wait for [0x8001]
    write_then_wait = "c606008001" + wait_then_write
    first = start(write_then_wait, 0, rbx=0x8001, rsi=0x8002)
    data = bytes.fromhex(wait_then_write)
    vm.memory[0x2000 : 0x2000 + len(data)] = data
    second = vm.create_vcpu(1)
    sregs = second.get_sregs()
    sregs.cs.base = sregs.cs.selector = 0
    second.set_sregs(sregs)
    second.set_regs(Regs(rip=0x2000, rflags=2, rbx=0x8000, rsi=0x8001))
    seen = []
    other = threading.Thread(target=lambda: seen.append(type(second.run())))
    other.start()
    watchdog = threading.Timer(10, lambda: (first.kick(), second.kick()))
    watchdog.start()
    assert isinstance(first.run(), Hlt)
    other.join()
    watchdog.cancel()
    watchdog.join()
    assert seen == [Hlt]
    assert vm.memory[0x8002] == 1
    second.close()


def test_kvm_asking_again_is_answered(kvm):
    """KVM_RUN of an application processor says EAGAIN after its SIPI; run() goes on."""
    memory = mmap(-1, 0x20000)
    memory[0x10000:0x10003] = bytes.fromhex(OUT_HLT)
    boot = (
        "66c7061003 00000001"  # mov dword [0x310], 1 << 24: the destination
        "66c7060003 00450000"  # mov dword [0x300], INIT
        "66c7060003 10460000"  # mov dword [0x300], SIPI to 0x10000
        "ebfe"
    )
    memory[: len(bytes.fromhex(boot))] = bytes.fromhex(boot)
    with kvm.create_vm() as vm:
        vm.create_irq_chip()
        vm.set_user_memory_region(0, 0, memory)
        with vm.create_vcpu(0) as first, vm.create_vcpu(1) as second:
            sregs = first.get_sregs()
            sregs.cs.base = sregs.cs.selector = 0
            sregs.ds.base = 0xFEE0_0000
            first.set_sregs(sregs)
            first.set_regs(Regs(rip=0, rflags=2))
            assert second.get_mp_state() is MpState.UNINITIALIZED
            second.set_lapic(second.get_lapic())  # KVM addresses a new local APIC from then on
            booting = threading.Thread(target=first.run)
            booting.start()
            watchdog = threading.Timer(5, second.kick)
            watchdog.start()
            exit_ = second.run()
            watchdog.cancel()
            first.kick()
            booting.join(5)
            assert isinstance(exit_, IoOut)
    memory.close()


# ------------------------------------------------------------------------------ the rest of the API


def test_a_breakpoint_after_each_instruction(start):
    """KVM_SET_GUEST_DEBUG with single step gives Debug exits that say where."""
    vcpu = start("9090f4")
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
    for pc in 0x1001, 0x1002:
        exit_ = vcpu.run()
        assert isinstance(exit_, Debug)
        assert exit_.pc == pc
    vcpu.set_guest_debug(0)
    assert isinstance(vcpu.run(), Hlt)


def test_msr_exits(vm, start):
    """KVM_CAP_X86_USER_SPACE_MSR brings unknown registers to us, in both directions."""
    unknown = MsrExitReason.UNKNOWN
    vm.enable_cap(Cap.X86_USER_SPACE_MSR, unknown)
    vcpu = start("0f320f30f4", rcx=0x1234_5678)
    match vcpu.run():
        case X86Rdmsr(reason, index) as exit_:
            assert (reason, index) == (unknown, 0x1234_5678)
            exit_.data = 0x1122_3344_5566_7788
        case other:
            pytest.fail(repr(other))
    match vcpu.run():
        case X86Wrmsr(_, index, data):
            assert (index, data) == (0x1234_5678, 0x1122_3344_5566_7788)
        case other:
            pytest.fail(repr(other))
    assert isinstance(vcpu.run(), Hlt)


def test_the_interrupt_window(start):
    """request_interrupt_window stops the guest once it can take an interrupt."""
    vcpu = start("fb" + SPIN)  # sti; jmp $
    vcpu.run_page.request_interrupt_window = True
    assert isinstance(vcpu.run(), IrqWindowOpen)
    assert vcpu.run_page.if_flag
    assert vcpu.run_page.ready_for_interrupt_injection


def test_translation_in_real_mode(start):
    """Without paging every address is its own."""
    translation = start(HLT).translate(0x1234)
    assert (translation.valid, translation.physical_address) == (1, 0x1234)


def test_a_short_xsave_area_is_refused(start, monkeypatch):
    """KVM would read past it."""
    vcpu = start(HLT)
    monkeypatch.setattr(vcpu, "_xsave_size", 8192)
    with pytest.raises(ValueError, match="8192"):
        vcpu.set_xsave(Xsave())


def test_many_msrs_at_once(kvm, start):
    """More than KVM takes in one call are split, and come back in order."""
    vcpu = start(HLT)
    indices = kvm.get_msr_index_list()
    assert list(vcpu.get_msrs(indices)) == indices
    star = {0xC000_0081: 5}
    assert vcpu.get_msrs([0xC000_0081] * 300).keys() == star.keys()
    vcpu.set_msrs(star)
    assert vcpu.get_msrs([0xC000_0081] * 300) == star


def test_a_register_that_kvm_refuses_is_named(start):
    """Those before it are set, those behind it are not; in a later batch it is the same one."""
    vcpu, star, lstar, bogus = start(HLT), 0xC000_0081, 0xC000_0082, 0x1234_5678
    with pytest.raises(MsrError, match=r"KVM_SET_MSRS.*KVM refuses MSR 0x12345678") as caught:
        vcpu.set_msrs({star: 7, bogus: 1, lstar: 9})
    assert caught.value.index == bogus
    assert vcpu.get_msrs([star, lstar]) == {star: 7, lstar: 0}
    with pytest.raises(MsrError, match=r"KVM_GET_MSRS.*KVM refuses MSR 0x12345678"):
        vcpu.get_msrs([*[star] * 200, bogus])


def test_enabling_what_is_not_there(vm):
    """EINVAL names the ioctl; too many arguments are the caller's mistake."""
    with pytest.raises(KvmError) as caught:
        vm.enable_cap(0x7FFF_FFFF)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_ENABLE_CAP", errno.EINVAL)
    with pytest.raises(
        ValueError, match="args of struct kvm_enable_cap has at most 4 values, not 5"
    ):
        vm.enable_cap(1, 1, 2, 3, 4, 5)


def test_a_memory_fault_is_an_exit(start):
    """EFAULT and EHWPOISON with KVM_EXIT_MEMORY_FAULT in the page; otherwise they are errors."""
    vcpu = start(HLT)
    for code in errno.EFAULT, lib.EHWPOISON:
        vcpu.run_page.raw[8:12] = lib.KVM_EXIT_MEMORY_FAULT.to_bytes(4, "little")
        vcpu.run_page.raw[32:56] = b"".join(n.to_bytes(8, "little") for n in (0, 0x5000, 0x1000))
        assert repr(vcpu._without_exit(-code)) == "MemoryFault(flags=0x0, gpa=0x5000, size=0x1000)"
        vcpu.run_page.raw[8:12] = bytes(4)
        with pytest.raises(KvmError) as caught:
            vcpu._without_exit(-code)
        assert caught.value.errno == code


def test_dirty_log_is_sized_by_the_slot(vm):
    """One bit per page in 64-bit words, for any size of slot."""
    for slot, pages in (1, 1), (2, 64), (3, 65):
        memory = mmap(-1, pages * 4096)
        vm.set_user_memory_region(slot, slot << 28, memory, MemoryFlag.LOG_DIRTY_PAGES)
        assert len(vm.get_dirty_log(slot)) == (pages + 63) // 64 * 8


def test_tsc_rate(start):
    """Setting the rate that is there is accepted."""
    vcpu = start(HLT)
    vcpu.set_tsc_khz(vcpu.get_tsc_khz())
