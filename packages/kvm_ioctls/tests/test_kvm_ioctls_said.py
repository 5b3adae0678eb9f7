"""What each argument becomes in a request, and what becomes of each answer: without KVM."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from kvm_ioctls import (
    ClockData,
    KvmError,
    KvmUnavailable,
    Mmio,
    MpState,
    MsrError,
    MsrFilterRange,
    Pio,
    StatsFd,
    Xcr,
    Xcrs,
)
from kvm_ioctls._descriptor import Descriptor
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.system import Kvm
from kvm_ioctls.vcpu import VcpuFd
from kvm_ioctls.vm import VmFd

SAID = {
    "KVM_IRQ_LINE": [
        (lambda vm: vm.set_irq_line(4, True), struct.pack("=II", 4, 1)),
        (lambda vm: vm.set_irq_line(4, False), struct.pack("=II", 4, 0)),
    ],
    "KVM_IRQ_LINE_STATUS": [
        (lambda vm: vm.set_irq_line_status(5, True), struct.pack("=II", 5, 1)),
        (lambda vm: vm.set_irq_line_status(5, False), struct.pack("=II", 5, 0)),
    ],
    "KVM_IRQFD": [
        (lambda vm: vm.register_irqfd(7, 4), struct.pack("=4I16x", 7, 4, 0, 0)),
        (lambda vm: vm.register_irqfd(7, 4, 9), struct.pack("=4I16x", 7, 4, 2, 9)),
        (lambda vm: vm.unregister_irqfd(7, 4), struct.pack("=4I16x", 7, 4, 1, 0)),
    ],
    "KVM_IOEVENTFD": [
        (lambda vm: vm.register_ioevent(7, Pio(8)), struct.pack("=QQIiI36x", 0, 8, 0, 7, 2)),
        (lambda vm: vm.register_ioevent(7, Mmio(8), 4, 0), struct.pack("=QQIiI36x", 0, 8, 4, 7, 1)),
        (lambda vm: vm.register_ioevent(7, Pio(8), 1, 9), struct.pack("=QQIiI36x", 9, 8, 1, 7, 3)),
        (
            lambda vm: vm.unregister_ioevent(7, Pio(8), 1, 9),
            struct.pack("=QQIiI36x", 9, 8, 1, 7, 7),
        ),
    ],
    "KVM_REINJECT_CONTROL": [
        (lambda vm: vm.reinject_control(True), struct.pack("=B31x", 1)),
        (lambda vm: vm.reinject_control(False), struct.pack("=B31x", 0)),
    ],
    "KVM_SET_PMU_EVENT_FILTER": [
        (
            lambda vm: vm.set_pmu_event_filter([0xC0, 2**40], allow=True),
            struct.pack("=4I16x2Q", 0, 2, 0, 0, 0xC0, 2**40),
        ),
        (
            lambda vm: vm.set_pmu_event_filter([], allow=False, fixed_counter_bitmap=3, flags=1),
            struct.pack("=4I16x", 1, 0, 3, 1),
        ),
    ],
    "KVM_TPR_ACCESS_REPORTING": [
        (lambda vcpu: vcpu.tpr_access_reporting(True), struct.pack("=II32x", 1, 0)),
        (lambda vcpu: vcpu.tpr_access_reporting(False), struct.pack("=II32x", 0, 0)),
    ],
    "KVM_INTERRUPT": [(lambda vcpu: vcpu.interrupt(300), struct.pack("=I", 300))],
    "KVM_SET_MP_STATE": [
        (lambda vcpu: vcpu.set_mp_state(MpState.HALTED), struct.pack("=I", 3)),
        (lambda vcpu: vcpu.set_mp_state(MpState(77)), struct.pack("=I", 77)),
    ],
    "KVM_SET_XCRS": [
        (
            lambda vcpu: vcpu.set_xcrs(Xcrs(nr_xcrs=1, xcrs=[Xcr(value=7)] + [Xcr()] * 15)),
            struct.pack("=IIIIQ", 1, 0, 0, 0, 7) + bytes(Xcrs.SIZE - 24),
        )
    ],
    "KVM_SET_GUEST_DEBUG": [
        (
            lambda vcpu: vcpu.set_guest_debug(0x20001, [0x1000, 0, 0, 0, 0, 0, 0, 0x401]),
            struct.pack("=II8Q", 0x20001, 0, 0x1000, *[0] * 6, 0x401),
        )
    ],
    "KVM_SET_CLOCK": [
        (
            lambda vm: vm.set_clock(ClockData(clock=5, flags=4, realtime=6)),
            bytes(ClockData(clock=5, flags=4, realtime=6)),
        )
    ],
}


@pytest.mark.parametrize("request_name", SAID)
def test_what_each_argument_becomes(listener, silent, request_name):
    """Both values of a flag, what is left out, and zero where it counts."""
    for call, expected in SAID[request_name]:
        listener.asked.clear()
        call(silent(VcpuFd if "vcpu" in call.__code__.co_varnames else VmFd))
        assert listener.asked == [(getattr(lib, request_name), expected)]


def test_what_became_of_a_masked_interrupt(listener, silent):
    """A status below 0 is that, not four thousand millions."""

    def masked(memory) -> int:
        memory[:4] = b"\xff" * 4
        return 0

    listener.answers = {lib.KVM_IRQ_LINE_STATUS: masked}
    assert silent(VmFd).set_irq_line_status(4, True) == -1


def test_states_that_a_vcpu_can_be_in(listener, silent):
    """What the kernel says, whatever it is."""
    for state in MpState.RUNNABLE, MpState.HALTED, 77:

        def answer(memory, state=state) -> int:
            memory[:4] = int(state).to_bytes(4, "little")
            return 0

        listener.answers = {lib.KVM_GET_MP_STATE: answer}
        assert silent(VcpuFd).get_mp_state() == state


@pytest.mark.parametrize("size", [0, 4096, 11008])
def test_how_long_an_xsave_area_is(silent, monkeypatch, size):
    """KVM_CAP_XSAVE2 says it, for each vCPU that is made."""
    monkeypatch.setattr(VmFd, "check_extension", lambda *_: size)
    monkeypatch.setattr("kvm_ioctls.vm.VcpuFd", lambda *arguments: arguments)
    vm = silent(VmFd)
    VmFd.__init__(vm, vm._fd, 4096)
    descriptor, _, _, told, _ = vm.vcpu_from_fd(os.open("/dev/null", os.O_RDWR), 0)
    descriptor.close()
    vm.close()
    assert told == size


@pytest.mark.parametrize(
    ("size", "request_name"), [(0, "XSAVE"), (4096, "XSAVE2"), (11008, "XSAVE2")]
)
def test_which_request_gets_an_xsave_area(listener, silent, size, request_name):
    """The newer one, with all the room that it needs; without the capability, the older one."""
    vcpu = silent(VcpuFd)
    vcpu._xsave_size = size
    assert len(vcpu.get_xsave().raw) == max(size, 4096)
    asked = getattr(lib, f"KVM_GET_{request_name}")
    assert listener.asked == [(asked, bytes(max(size, 4096)))]


def test_a_list_of_registers_without_end(listener, silent):
    """E2BIG again and again without a larger number is an error, not a loop."""
    listener.answers = {lib.KVM_GET_REG_LIST: lambda _: -errno.E2BIG}
    with pytest.raises(KvmError, match="E2BIG"):
        silent(VcpuFd).get_reg_list()
    assert len(listener.asked) == 1


@pytest.mark.parametrize("code", [errno.E2BIG, errno.ENOMEM])
def test_a_list_that_wants_more_room(listener, silent, code):
    """Old kernels say ENOMEM where others say E2BIG."""

    def answer(memory) -> int:
        return 0 if int.from_bytes(memory[:4], "little") >= 200 else -code

    listener.answers = {lib.KVM_GET_SUPPORTED_CPUID: answer}
    assert len(silent(Kvm).get_supported_cpuid()) == 256


@pytest.mark.parametrize("version", [11, 13])
def test_another_version_of_the_api(monkeypatch, version):
    """Version 12 and no other; what was opened is closed."""
    monkeypatch.setattr(Kvm, "get_api_version", lambda _: version)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a number is enough
    with pytest.raises(KvmUnavailable, match=f"it speaks version {version} of the API"):
        Kvm("/dev/null")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - a number is enough


def test_programs_that_are_started_do_not_get_the_descriptor(monkeypatch):
    """O_CLOEXEC; Python sets it by itself, and a program that asks for inheritance undoes both."""
    asked = []
    monkeypatch.setattr("os.open", lambda _, flags: asked.append(flags) or os.dup(0))
    monkeypatch.setattr(Kvm, "get_api_version", lambda _: lib.KVM_API_VERSION)
    Kvm("/dev/kvm").close()
    assert asked == [os.O_RDWR | os.O_CLOEXEC]


def test_a_machine_that_cannot_be_made_is_closed(listener, silent, monkeypatch):
    """Neither machine nor vCPU is left open when the second step fails."""
    kvm, vm = silent(Kvm), silent(VmFd)
    VmFd.__init__(vm, vm._fd, 4096)
    monkeypatch.setattr(Kvm, "get_vcpu_mmap_size", lambda *_: 1 // 0)
    monkeypatch.setattr(VmFd, "check_extension", lambda *_: 1 // 0)
    for make in kvm.vm_from_fd, lambda number: vm.vcpu_from_fd(number, 0):
        number = os.open("/dev/null", os.O_RDWR)
        with pytest.raises(ZeroDivisionError):
            make(number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    vm.close()


def test_attributes_that_are_not_there(listener, silent):
    """ENXIO and ENOENT mean no; other errors are errors."""
    for code in errno.ENXIO, errno.ENOENT:
        listener.answers = {lib.KVM_HAS_DEVICE_ATTR: lambda _, code=code: -code}
        assert silent(VcpuFd).has_device_attr(1, 1) is False
    listener.answers = {lib.KVM_HAS_DEVICE_ATTR: lambda _: -errno.EPERM}
    with pytest.raises(KvmError, match="EPERM"):
        silent(VcpuFd).has_device_attr(1, 1)


def test_the_kernel_has_room_for_any_attribute(listener, silent):
    """It reads and writes as much as the attribute is long, not as much as was asked for."""

    def answer(memory) -> int:
        address = int.from_bytes(memory[16:24], "little")
        ffi.memmove(ffi.cast("char *", address), b"x" * 4096, 4096)
        return 0

    listener.answers = dict.fromkeys((lib.KVM_GET_DEVICE_ATTR, lib.KVM_SET_DEVICE_ATTR), answer)
    vcpu, value = silent(VcpuFd), b"12"
    assert vcpu.get_device_attr(0, 0, 2) == b"xx"
    vcpu.set_device_attr(0, 0, value)
    assert value == b"12"


def test_hypercall_pages_are_kept(listener, silent):
    """KVM reads them when the guest asks for its page, long after the request."""
    vm = silent(VmFd)
    VmFd.__init__(vm, vm._fd, 4096)
    page = bytearray(b"\xc3" * 8192)
    vm.xen_hvm_config(0, 0x4000_0000, blob_64=page)
    page[:] = bytes(8192)
    _, data = listener.asked[0]
    flags, msr, first, second, small, large = struct.unpack("=IIQQBB30x", data)
    assert (flags, msr, first, small, large) == (0, 0x4000_0000, 0, 0, 2)
    assert bytes(ffi.buffer(ffi.cast("char *", second), 8192)) == b"\xc3" * 8192
    vm.close()


def test_statistics_of_every_kind():
    """Powers of two and of ten, and a histogram at the end of the data."""
    name_size, identity = 16, b"kvm-1".ljust(16, b"\0")
    described = [
        (0x100, 3, 1, 0, 0, b"kib"),  # cumulative, no unit, to the base of two
        (0x023, -9, 3, 8, 5, b"waits"),  # a linear histogram of seconds, to the base of ten
    ]
    at = 24 + name_size
    data_at = at + len(described) * (16 + name_size)
    packed = struct.pack("=6I", 0, name_size, len(described), 24, at, data_at) + identity
    for flags, exponent, size, offset, bucket, name in described:
        packed += struct.pack("=IhHII", flags, exponent, size, offset, bucket)
        packed += name.ljust(name_size, b"\0")
    number = os.memfd_create("statistics")
    os.write(number, packed + struct.pack("=4Q", 7, 1, 2, 3))
    with StatsFd(Descriptor(number, "StatsFd")) as statistics:
        assert statistics.id == "kvm-1"
        counted = statistics.read()
    assert (counted["kib"].value, counted["kib"].scale, counted["kib"].kind) == (7, 8, "cumulative")
    waits = counted["waits"]
    assert (waits.values, waits.value, waits.bucket_size) == ((1, 2, 3), 6, 5)
    assert (waits.kind, waits.unit, waits.scale) == ("linear histogram", "seconds", 1e-9)


@pytest.mark.parametrize("count", [0, 16, 17])
def test_how_many_ranges_a_filter_has(listener, silent, count):
    """Sixteen, of 12,288 registers each; not one more of either."""
    ranges = [MsrFilterRange.allowing(n << 16, 12288, [n << 16]) for n in range(count)]
    if count > 16:
        with pytest.raises(ValueError, match="at most 16 ranges, not 17"):
            silent(VmFd).set_msr_filter(ranges)
    else:
        silent(VmFd).set_msr_filter(ranges)
        _, data = listener.asked[0]
        sizes = [size for _, size, _, _ in struct.iter_unpack("=IIIxxxxQ", data[8:])]
        assert sizes == [12288] * count + [0] * (16 - count)


@pytest.mark.parametrize("refused", [0, 2, 130])
@pytest.mark.parametrize("request_name", ["KVM_GET_MSRS", "KVM_SET_MSRS"])
def test_a_register_that_is_refused(listener, silent, request_name, refused):
    """The error has its index, in whichever batch it is; the kernel only says how many it did."""
    done = []

    def answer(memory) -> int:
        count = int.from_bytes(memory[:4], "little")
        done.append(min(count, refused - sum(done)))
        return done[-1]

    listener.answers = {getattr(lib, request_name): answer}
    vcpu, values = silent(VcpuFd), dict.fromkeys(range(0x1000, 0x1000 + 200), 0)
    call = vcpu.get_msrs if request_name == "KVM_GET_MSRS" else vcpu.set_msrs
    with pytest.raises(MsrError, match=f"KVM refuses MSR {0x1000 + refused:#x}") as caught:
        call(values)
    assert (caught.value.index, caught.value.ioctl) == (0x1000 + refused, request_name)
