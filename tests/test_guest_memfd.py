"""Memory that only the guest sees, made by KVM and kept in the map of guest memory."""

from __future__ import annotations

import os

import pytest

from kvm_ioctls import Cap, Kvm, KvmUnavailable
from vm_memory import GuestMemory, GuestRegion, HostAddressNotAvailable

pytestmark = pytest.mark.kvm


@pytest.fixture
def vm():
    """A virtual machine whose KVM makes such memory."""
    try:
        kvm = Kvm()
    except KvmUnavailable as error:
        pytest.skip(str(error))
    with kvm, kvm.create_vm() as vm:
        if not vm.check_extension(Cap.GUEST_MEMFD):
            pytest.skip("this KVM has no KVM_CAP_GUEST_MEMFD")
        yield vm


def test_kvm_s_own_file_is_a_region_without_host_memory(vm):
    """It has its place in the map, the slot is made of it, and no access of ours reaches it."""
    size = 0x10000
    with vm.create_guest_memfd(size) as made:
        region = GuestRegion.guest_memfd(0x1_0000_0000, size, made.fileno())
        assert os.path.sameopenfile(region.file_descriptor, made.fileno())
        with (
            GuestMemory([GuestRegion.anonymous(0, size), region]) as memory,
            GuestRegion.anonymous(0x1_0000_0000, size) as shared,
        ):
            vm.set_user_memory_region2(0, region.start_addr, shared.slot_memory, made)
            assert memory.find_region(0x1_0000_0000) is region
            assert not memory.check_range(0x1_0000_0000, 1)
            with pytest.raises(HostAddressNotAvailable):
                memory.read(0x1_0000_0000, 8)
            vm.set_user_memory_region(0, region.start_addr, None)
