"""The real /dev/kvm: devices, attributes, statistics, and who owns which descriptor."""

from __future__ import annotations

import errno
import os

import pytest

from kvm_ioctls import Cap, DeviceFd, KvmClosedError, KvmError
from kvm_ioctls._ffi import lib

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]


def test_devices_that_are_not_there(vm, needs):
    """Asking is not making; making says that there is no such device."""
    needs(Cap.DEVICE_CTRL)
    assert not vm.has_device(99)
    with pytest.raises(KvmError, match="no device of this type") as caught:
        vm.create_device(99)
    assert caught.value.errno == errno.ENODEV


def test_a_device(vm, needs):
    """VFIO's bridge has the attribute by which groups are added, and can be closed at any time."""
    needs(Cap.DEVICE_CTRL)
    if not vm.has_device(lib.KVM_DEV_TYPE_VFIO):
        pytest.skip("this KVM has no VFIO device")
    with vm.create_device(lib.KVM_DEV_TYPE_VFIO) as device:
        assert device.has_device_attr(1, 1)
        assert not device.has_device_attr(9, 9)
        with pytest.raises(KvmError, match="no such attribute"):
            device.set_device_attr(9, 9, b"1234")
        with DeviceFd.from_fd(os.dup(device.fileno())) as other:
            assert other.has_device_attr(1, 1)
    with pytest.raises(KvmClosedError, match="DeviceFd"):
        device.has_device_attr(1, 1)


def test_attributes_of_the_system(kvm, needs):
    """KVM_X86_XCOMP_GUEST_SUPP: which parts of XSAVE guests can have; x87 and SSE among them."""
    needs(Cap.SYS_ATTRIBUTES)
    assert kvm.has_device_attr(0, 0)
    assert int.from_bytes(kvm.get_device_attr(0, 0, 8), "little") & 3 == 3
    assert len(kvm.get_device_attr(0, 0, 4)) == 4


def test_statistics_of_a_machine_and_a_vcpu(vm, start, needs):
    """Names are the kernel's, identities tell whose they are, values are there."""
    needs(Cap.BINARY_STATS_FD)
    vcpu = start("e680f4")
    vcpu.run()
    with vm.get_stats_fd() as machine, vcpu.get_stats_fd() as processor:
        assert machine.id == f"kvm-{os.getpid()}"
        assert processor.id == f"kvm-{os.getpid()}/vcpu-0"
        assert "remote_tlb_flush" in machine.read()
        counted = processor.read()
        assert counted["exits"].kind == "cumulative"
        assert counted["exits"].value >= 1
        assert len(counted["halt_wait_hist"].values) > 1
        assert counted["halt_wait_hist"].kind == "logarithmic histogram"
        assert counted["halt_wait_ns"].scale == 1e-9
        assert counted["halt_wait_ns"].unit == "seconds"
    with pytest.raises(KvmClosedError):
        machine.read()


def test_machines_and_vcpus_from_elsewhere(kvm, vm, start):
    """Descriptors are taken over, and closed exactly once."""
    vcpu = start("f4")
    with kvm.vm_from_fd(os.dup(vm.fileno())) as other:
        assert other.check_extension(Cap.USER_MEMORY) == 1
        copied = os.dup(vcpu.fileno())
        with other.vcpu_from_fd(copied, 0) as same:
            assert same.get_regs() == vcpu.get_regs()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(copied)
