"""What the kernel is asked, where no KVM at hand would answer: against one that only listens."""

from __future__ import annotations

import errno
import os
import platform
import re
import struct
from array import array
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

import kvm_ioctls
from kvm_ioctls import (
    ArmGuestDebug,
    KvmClosedError,
    KvmError,
    NestedState,
    NotInHeaderError,
    VcpuInit,
    XenHvmAttr,
    XenVcpuAttr,
    _run,
    arm64,
)
from kvm_ioctls._descriptor import Descriptor
from kvm_ioctls._ffi import lib
from kvm_ioctls.guest_memfd import GuestMemfd
from kvm_ioctls.system import Kvm
from kvm_ioctls.vcpu import VcpuFd
from kvm_ioctls.vm import VmFd

HEADER = Path("/usr/include/linux/kvm.h")


ASKED = {
    "KVM_SIGNAL_MSI": (
        lambda vm: vm.signal_msi(0x1_FEE0_0000, 0x41, devid=9),
        struct.pack("=5I12x", 0xFEE0_0000, 1, 0x41, 1, 9),
    ),
    "KVM_SET_MEMORY_ATTRIBUTES": (
        lambda vm: vm.set_memory_attributes(0x1000, 0x2000, 8),
        struct.pack("=4Q", 0x1000, 0x2000, 8, 0),
    ),
    "KVM_MEMORY_ENCRYPT_REG_REGION": (
        lambda vm: vm.register_enc_memory_region(0x7000, 0x1000),
        struct.pack("=2Q", 0x7000, 0x1000),
    ),
    "KVM_MEMORY_ENCRYPT_UNREG_REGION": (
        lambda vm: vm.unregister_enc_memory_region(0x7000, 0x1000),
        struct.pack("=2Q", 0x7000, 0x1000),
    ),
    "KVM_HYPERV_EVENTFD": (lambda vm: vm.hyperv_eventfd(7, 5), struct.pack("=IiI12x", 7, 5, 0)),
    "KVM_XEN_HVM_CONFIG": (
        lambda vm: vm.xen_hvm_config(2, 0x4000_0000),
        struct.pack("=II48x", 2, 0x4000_0000),
    ),
    "KVM_XEN_HVM_SET_ATTR": (
        lambda vm: vm.xen_hvm_set_attr(XenHvmAttr(type=1)),
        struct.pack("=H70x", 1),
    ),
    "KVM_XEN_HVM_EVTCHN_SEND": (
        lambda vm: vm.xen_hvm_evtchn_send(3, 1),
        struct.pack("=3I", 3, 1, 2**32 - 1),
    ),
}


@pytest.mark.parametrize("request_name", ASKED)
def test_what_a_machine_is_asked(listener, silent, request_name):
    """The request's number, and the bytes of its structure."""
    call, expected = ASKED[request_name]
    call(silent(VmFd))
    assert listener.asked == [(getattr(lib, request_name), expected)]


def test_what_a_vcpu_is_asked(listener, silent):
    """The requests without a structure, and Xen's."""
    vcpu = silent(VcpuFd)
    vcpu.smi()
    vcpu.kvmclock_ctrl()
    vcpu.xen_vcpu_set_attr(XenVcpuAttr(type=6))
    assert listener.asked == [
        (lib.KVM_SMI, 0),
        (lib.KVM_KVMCLOCK_CTRL, 0),
        (lib.KVM_XEN_VCPU_SET_ATTR, struct.pack("=H70x", 6)),
    ]


def test_a_buffer_that_is_shorter_than_the_request_s():
    """The kernel would read or write past it: the number says how long it has to be."""
    buffer = bytearray(143)
    with closing(Descriptor(os.open("/dev/null", os.O_RDWR), "Null")) as null:
        with pytest.raises(ValueError, match="this request takes 144 bytes, not 143"):
            _run.ioctl(null, lib.KVM_GET_REGS, buffer)
        buffer.append(0)  # given back
        with pytest.raises(BufferError):  # the kernel would change a constant
            _run.ioctl(null, lib.KVM_GET_REGS, bytes(144))
        assert _run.ioctl(null, lib.KVM_SET_REGS, bytes(144)) == -errno.ENOTTY
        assert _run.ioctl(null, lib.KVM_GET_REGS, buffer) == -errno.ENOTTY
        buffer.append(0)
        assert _run.ioctl(null, lib.KVM_GET_API_VERSION, 0) == -errno.ENOTTY
        for arguments in (1, 2, 3), (null, 2), (null, 2, "three"), (null, "two", 3), (null, -2, 3):
            with pytest.raises((TypeError, OverflowError)):
                _run.ioctl(*arguments)
    with pytest.raises(KvmClosedError, match="Null"):
        _run.ioctl(null, lib.KVM_GET_API_VERSION, 0)


def test_ending_hyper_v_s_signals(listener, silent):
    """Without an eventfd the connection is taken back."""
    silent(VmFd).hyperv_eventfd(7, None)
    assert listener.asked == [(lib.KVM_HYPERV_EVENTFD, struct.pack("=IiI12x", 7, -1, 1))]


def test_commands_to_what_encrypts(listener, silent):
    """The command goes as it is; without one the machine is asked whether it can encrypt."""
    vm, command = silent(VmFd), bytearray(struct.pack("=IxxxxQII", 3, 0x1234, 0, 9))
    vm.memory_encrypt_op(command)
    vm.memory_encrypt_op()
    request = lib.KVM_MEMORY_ENCRYPT_OP
    assert listener.asked == [(request, bytes(command)), (request, 0)]


def test_attributes_are_asked_for_by_type(listener, silent):
    """The caller's record stays as it was, the answer is another one."""

    def answer(memory) -> int:
        memory[8:16] = (0x77).to_bytes(8, "little")
        return 0

    listener.answers = {lib.KVM_XEN_HVM_GET_ATTR: answer, lib.KVM_XEN_VCPU_GET_ATTR: answer}
    question = XenHvmAttr(type=1)
    assert silent(VmFd).xen_hvm_get_attr(question).u.pad[0] == 0x77
    assert question == XenHvmAttr(type=1)
    assert silent(VcpuFd).xen_vcpu_get_attr(XenVcpuAttr(type=4)).u.pad[0] == 0x77
    assert listener.asked == [
        (lib.KVM_XEN_HVM_GET_ATTR, struct.pack("=H70x", 1)),
        (lib.KVM_XEN_VCPU_GET_ATTR, struct.pack("=H70x", 4)),
    ]


def test_memory_that_is_bound_to_a_slot(listener, silent):
    """KVM_SET_USER_MEMORY_REGION2 has the descriptor, the offset and the private flag."""
    vm = silent(VmFd)
    VmFd.__init__(vm, vm._fd, 4096)
    private = GuestMemfd(Descriptor(os.open("/dev/null", os.O_RDWR), "GuestMemfd"), 0x2000)
    number = private.fileno()
    vm.set_user_memory_region2(3, 0x1000, bytearray(0x1000), private, 0x1000, flags=1)
    request, data = listener.asked[0]
    slot, flags, start, size, _, offset, memfd = struct.unpack("=2I4QI116x", data)
    assert request == lib.KVM_SET_USER_MEMORY_REGION2
    assert (slot, flags, start, size) == (3, 1 | 4, 0x1000, 0x1000)
    assert (offset, memfd) == (0x1000, number)
    private.close()
    vm._hold.leave()


def test_how_far_pre_faulting_got(listener, silent):
    """The kernel leaves in `size` what is still to do."""

    def answer(memory) -> int:
        memory[8:16] = (0x1000).to_bytes(8, "little")
        return 0

    listener.answers = {lib.KVM_PRE_FAULT_MEMORY: answer}
    assert silent(VcpuFd).pre_fault_memory(0x4000, 0x3000) == 0x2000
    assert listener.asked == [(lib.KVM_PRE_FAULT_MEMORY, struct.pack("=2Q48x", 0x4000, 0x3000))]


def test_a_nested_state_that_needs_more_room(listener, silent):
    """E2BIG says how much; the second request has it."""
    wanted = 128 + 4096

    def answer(memory) -> int:
        room = int.from_bytes(memory[4:8], "little")
        memory[4:8] = wanted.to_bytes(4, "little")
        return 0 if room >= wanted else -errno.E2BIG

    listener.answers = {lib.KVM_GET_NESTED_STATE: answer}
    state = silent(VcpuFd).get_nested_state()
    assert (state.size, len(state.raw)) == (wanted, wanted)
    assert len(listener.asked) == 2


def test_a_nested_state_that_cannot_be_had(listener, silent):
    """Other errors are errors, and so is E2BIG without a size."""
    for code in errno.EINVAL, errno.E2BIG:
        listener.answers = {lib.KVM_GET_NESTED_STATE: lambda _, code=code: -code}
        with pytest.raises(KvmError) as caught:
            silent(VcpuFd).get_nested_state()
        assert caught.value.errno == code


def test_a_nested_state_that_is_set(listener, silent):
    """It goes as it is."""
    silent(VcpuFd).set_nested_state(NestedState(size=128, format=1))
    request, data = listener.asked[0]
    assert (request, data[2:8]) == (lib.KVM_SET_NESTED_STATE, struct.pack("=HI", 1, 128))


def test_a_list_of_registers_that_grows(listener, silent):
    """KVM_GET_REG_LIST is asked again with the room that it wants."""
    ids = [0x6030_0000_0010_0000 + n for n in range(5)]

    def answer(memory) -> int:
        words = memory.cast("Q")
        room, words[0] = words[0], len(ids)
        if room < len(ids):
            return -errno.E2BIG
        words[1 : 1 + len(ids)] = memoryview(array("Q", ids))
        return 0

    listener.answers = {lib.KVM_GET_REG_LIST: answer}
    assert silent(VcpuFd).get_reg_list() == ids


@pytest.mark.skipif(platform.machine() != "x86_64", reason="they are this machine's own")
@pytest.mark.parametrize(
    "call",
    [
        lambda objects: objects.vm.get_preferred_target(),
        lambda objects: objects.vm.arm_set_device_addr(1, 2),
        lambda objects: objects.vm.arm_mte_copy_tags(0, bytearray(8), to_guest=True),
        lambda objects: objects.vm.arm_set_counter_offset(1),
        lambda objects: objects.vm.arm_get_reg_writable_masks(),
        lambda objects: objects.vcpu.set_arm_guest_debug(ArmGuestDebug(control=1)),
        lambda objects: objects.vcpu.vcpu_init(VcpuInit()),
        lambda objects: objects.vcpu.vcpu_finalize(4),
        lambda objects: objects.vcpu.get_arm_vcpu_events(),
    ],
)
def test_requests_of_another_architecture(listener, silent, call):
    """They are methods everywhere, and say that the build's header has no such thing."""
    objects = SimpleNamespace(vm=silent(VmFd), vcpu=silent(VcpuFd))
    with pytest.raises(NotInHeaderError, match="built with a kernel header that has no"):
        call(objects)
    assert listener.asked == []


def test_interrupts_that_cannot_be():
    """A number or a vCPU with more bits than the request has is said at once."""
    assert arm64.irq_line(arm64.IrqType.SPI, 33) == 1 << 24 | 33
    for number, vcpu in (1 << 16, 0), (-1, 0), (33, 1 << 12):
        with pytest.raises(ValueError, match=f"no interrupt {number} of vCPU {vcpu}"):
            arm64.irq_line(arm64.IrqType.PPI, number, vcpu)


def test_arm64_s_limits_are_capabilities(listener, silent):
    """They are asked like any other; x86 answers 0."""
    kvm = silent(Kvm)
    for call in kvm.get_host_ipa_limit, kvm.get_guest_debug_hw_bps, kvm.get_guest_debug_hw_wps:
        assert call() == 0
    assert {value for _, value in listener.asked} == {165, 119, 120}


# What is not offered: other architectures' requests, and those that newer ones replaced.
NOT_OFFERED = re.compile(
    r"KVM_(S390_|PPC_|CREATE_SPAPR|ALLOCATE_RMA|DIRTY_TLB|XICS|ASSIGN_|DEASSIGN_)|"
    r"KVM_(SET_MEMORY_REGION|SET_MEMORY_ALIAS|CREATE_PIT|GET_PIT|SET_PIT|SET_CPUID|LOONGARCH_.*)$"
)


TOLD_OF = {"requests.py", "errors.py"}  # they have names of requests, and make none


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers")
def test_every_request_of_the_header_is_made_somewhere():
    """A request of <linux/kvm.h> is in the package's code, unless it is one of the above."""
    text = HEADER.read_text()
    names = re.findall(r"^#define\s+(KVM_\w+)\s+_IO[WR]*\(KVMIO", text, re.MULTILINE)
    assert len(names) > 100
    package = Path(kvm_ioctls.__file__).parent
    code = "".join(p.read_text() for p in package.rglob("*.py") if p.name not in TOLD_OF)
    made = set(re.findall(r'"(KVM_[A-Z0-9_]+)"', code)) | {
        "KVM_RUN",
        "KVM_SET_SIGNAL_MASK",
    }  # the last two in C
    assert {name for name in names if not NOT_OFFERED.match(name)} - made == set()
