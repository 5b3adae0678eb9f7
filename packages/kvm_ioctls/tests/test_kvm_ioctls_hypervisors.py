"""The real /dev/kvm: hypercalls, Xen, breakpoints in code, and memory that is gone.

Some KVMs do these otherwise than the hardware; the tests look, and skip with what they saw.
"""

from __future__ import annotations

import errno
import tempfile
import threading
from contextlib import suppress
from mmap import mmap

import pytest

from kvm_ioctls import (
    Cap,
    Debug,
    GuestDebug,
    Hlt,
    Hypercall,
    Interrupted,
    KvmError,
    Xen,
    XenHvmAttr,
    XenVcpuAttr,
)

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

MAP_GPA_RANGE = 12  # KVM_HC_MAP_GPA_RANGE: Documentation/virt/kvm/x86/hypercalls.rst
INTERCEPT_HCALL = 2  # KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL
LONG_MODE, VCPU_INFO = 0, 0  # KVM_XEN_ATTR_TYPE_LONG_MODE, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO


@pytest.fixture
def hypercall(kvm):
    """The instruction of this processor, and HLT."""
    vendor = next(leaf for leaf in kvm.get_supported_cpuid() if leaf.function == 0)
    return ("0f01d9" if vendor.ebx == 0x6874_7541 else "0f01c1") + "f4"  # VMMCALL for "Auth…"


def run_or_skip(vcpu, what: str):
    """The exit, or a skip when the guest only spins."""
    watchdog = threading.Timer(3, vcpu.kick)
    watchdog.start()
    exit_ = vcpu.run()
    watchdog.cancel()
    if isinstance(exit_, Interrupted):
        pytest.skip(f"this KVM differs: {what} is executed again and again")
    return exit_


def test_hypercalls_come_to_us(vm, start, needs, hypercall):
    """Number and arguments are there, and the answer is in RAX."""
    needs(Cap.EXIT_HYPERCALL)
    vm.enable_cap(Cap.EXIT_HYPERCALL, 1 << MAP_GPA_RANGE)
    vcpu = start(hypercall, rax=MAP_GPA_RANGE, rbx=0x2000, rcx=1, rdx=0x10)
    exit_ = run_or_skip(vcpu, "a hypercall")
    assert isinstance(exit_, Hypercall)
    assert (exit_.nr, exit_.args[:3], exit_.longmode) == (MAP_GPA_RANGE, (0x2000, 1, 0x10), False)
    exit_.ret = 0x77
    assert isinstance(vcpu.run(), Hlt)
    assert vcpu.get_regs().rax & 0xFFFF_FFFF == 0x77


def test_a_xen_guest_s_hypercalls(vm, start, needs, hypercall):
    """The record has them, and takes the answer."""
    needs(Cap.XEN_HVM)
    vm.xen_hvm_config(INTERCEPT_HCALL)
    vcpu = start(hypercall, rax=17, rbx=5)
    exit_ = run_or_skip(vcpu, "a hypercall")
    assert isinstance(exit_, Xen)
    call = exit_.record.u.hcall
    assert (call.input, call.params[0], call.cpl, call.longmode) == (17, 5, 0, 0)
    call.result = 0x4_0011
    assert isinstance(vcpu.run(), Hlt)
    assert vcpu.get_regs().rax == 0x4_0011


def test_attributes_of_a_xen_guest(vm, start, needs):
    """What is set is got: the machine's mode, and where a vCPU's information is."""
    needs(Cap.XEN_HVM)
    vm.xen_hvm_config(INTERCEPT_HCALL)
    attribute = XenHvmAttr(type=LONG_MODE)
    attribute.u.pad[0] = 1
    vm.xen_hvm_set_attr(attribute)
    assert vm.xen_hvm_get_attr(XenHvmAttr(type=LONG_MODE)).u.pad[0] & 0xFF == 1
    vcpu, info = start("f4"), XenVcpuAttr(type=VCPU_INFO)
    info.u.pad[0] = 0x4000
    vcpu.xen_vcpu_set_attr(info)
    assert vcpu.xen_vcpu_get_attr(XenVcpuAttr(type=VCPU_INFO)).u.pad[0] == 0x4000


def test_a_breakpoint_in_the_code(vm, start):
    """INT3 is ours while software breakpoints are debugged."""
    vm.memory[12:16] = b"\x02\x10\0\0"  # vector 3, if it is the guest's after all: to the HLT
    vcpu = start("90ccf4")
    vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.USE_SW_BP)
    exit_ = vcpu.run()
    if not isinstance(exit_, Debug):
        pytest.skip(f"this KVM differs: INT3 under a debugger gives {type(exit_).__name__}")
    assert (exit_.exception, exit_.pc) == (3, 0x1001)


def test_single_steps(start):
    """single_step() stops after each instruction."""
    vcpu = start("9090f4")
    vcpu.single_step()
    assert [vcpu.run().pc for _ in range(2)] == [0x1001, 0x1002]


def test_memory_that_is_gone(vm, start):
    """The guest touches a page whose file was cut off: EFAULT, and a hint at what that means."""
    with tempfile.TemporaryFile() as file:
        file.truncate(0x1000)
        memory = mmap(file.fileno(), 0x1000)
        file.truncate(0)
        vm.set_user_memory_region(1, 0x100000, memory)
        vcpu = start("8a07f4")  # mov al, [bx]; hlt
        sregs = vcpu.get_sregs()
        sregs.ds.base = 0x100000
        vcpu.set_sregs(sregs)
        seen = []
        with suppress(KvmError):
            seen.append(type(vcpu.run()).__name__)
        if seen:
            pytest.skip(f"this KVM differs: memory that is gone gives {seen[0]}")
        with pytest.raises(KvmError, match="memory behind a slot is gone") as caught:
            vcpu.run()
        assert caught.value.errno == errno.EFAULT
