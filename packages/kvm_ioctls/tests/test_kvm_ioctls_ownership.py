"""Who owns which descriptor and which memory, and for how long, when things go wrong."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
import warnings
from mmap import ACCESS_READ, mmap

import pytest

from kvm_ioctls import (
    Cap,
    DeviceFd,
    Hlt,
    IoIn,
    Kvm,
    KvmClosedError,
    KvmError,
    KvmUnavailable,
    MemoryFlag,
)

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a number is enough


def forgotten(objects: list) -> None:
    """Lets go of all `objects` without closing them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        objects.clear()
        gc.collect()


@pytest.fixture
def rom():
    """A page of 0x5a that nobody can write."""
    with tempfile.TemporaryFile() as file:
        file.write(b"\x5a" * 4096)
        file.flush()
        mapped = mmap(file.fileno(), 4096, access=ACCESS_READ)
    yield mapped
    mapped.close()


def test_a_vcpu_costs_one_descriptor(kvm):
    """Its mapping has no copy; the wrong behaviour was two, and one left with a view."""
    before = descriptors()
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert descriptors() == before + 2
        view = vcpu.run_page.raw[:8]
    assert descriptors() == before
    view.release()


def test_a_dirty_ring_costs_no_descriptor(kvm, needs):
    """Its mapping has no copy either."""
    needs(Cap.DIRTY_LOG_RING)
    with kvm.create_vm() as vm:
        vm.enable_dirty_ring(65536)
        with vm.create_vcpu(0) as vcpu:
            before = descriptors()
            with vcpu.map_dirty_ring():
                assert descriptors() == before


def test_rings_that_are_enabled_by_hand(kvm, needs):
    """enable_cap() does what enable_dirty_ring() does; rings that were there were denied."""
    needs(Cap.DIRTY_LOG_RING)
    with kvm.create_vm() as vm:
        vm.enable_cap(Cap.DIRTY_LOG_RING, 65536)
        with vm.create_vcpu(0) as vcpu, vcpu.map_dirty_ring() as ring:
            assert ring.harvest() == []


def test_refused_arguments_keep_no_memfd(vm, needs):
    """A slot that cannot be has no copy of the guest_memfd; each try left one open."""
    needs(Cap.GUEST_MEMFD)
    memory = mmap(-1, 0x10000)
    with vm.create_guest_memfd(0x10000) as private:
        before = descriptors()
        for slot in (-1, 2**32):
            with pytest.raises(ValueError, match="slot of struct kvm_userspace_memory_region2"):
                vm.set_user_memory_region2(slot, 0x30_0000, memory, private)
        with pytest.raises(KvmError):
            vm.set_user_memory_region2(3, 1, memory, private)
        assert descriptors() == before
        with pytest.raises(TypeError, match="guest_memfd is of type GuestMemfd, not 7"):
            vm.set_user_memory_region2(1, 0, memory, 7)
    memory.close()


def test_a_slot_s_memfd_is_closed_with_it(vm, needs):
    """The copy lives as long as the slot."""
    needs(Cap.GUEST_MEMFD)
    before, memory = descriptors(), mmap(-1, 0x10000)
    with vm.create_guest_memfd(0x10000) as private:
        vm.set_user_memory_region2(1, 0x30_0000, memory, private)
    assert descriptors() == before + 1
    vm.set_user_memory_region(1, 0, None)
    assert descriptors() == before
    memory.close()


def test_a_forgotten_machine_keeps_no_memfd(kvm, needs):
    """The copies of its slots go with it; they stayed open."""
    needs(Cap.GUEST_MEMFD)
    before, objects = descriptors(), []
    for _ in range(3):
        vm, memory = kvm.create_vm(), mmap(-1, 0x10000)
        objects += vm, memory
        with vm.create_guest_memfd(0x10000) as private:
            vm.set_user_memory_region2(0, 0, memory, private)
        del vm, memory
    forgotten(objects)
    assert descriptors() == before


def test_a_forgotten_vcpu_gives_the_memory_back(kvm):
    """The memory is free when the machine is closed; the vCPU held it for ever."""
    memory = mmap(-1, 0x10000)
    with kvm.create_vm() as vm:
        vm.set_user_memory_region(0, 0, memory)
        forgotten([vm.create_vcpu(0)])
    memory.close()


def test_a_forgotten_machine_gives_the_memory_back(kvm):
    """The last vCPU that is closed frees it."""
    memory, objects = mmap(-1, 0x10000), [kvm.create_vm()]
    objects[0].set_user_memory_region(0, 0, memory)
    vcpu = objects[0].create_vcpu(0)
    forgotten(objects)
    with pytest.raises(BufferError):
        memory.close()
    vcpu.close()
    memory.close()


def test_nothing_hangs_on_the_run_page(kvm):
    """C holds the page: a cycle through an attribute of it was never collected."""
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu, pytest.raises(AttributeError):
        vcpu.run_page.owner = vcpu


def test_memory_that_nobody_can_write(vm, rom, needs):
    """Only a read-only slot takes it: a file that is firmware."""
    needs(Cap.READONLY_MEM)
    with pytest.raises(TypeError, match="memory is writable"):
        vm.set_user_memory_region(1, 0x10_0000, rom)
    vm.set_user_memory_region(1, 0x10_0000, rom, MemoryFlag.READONLY)
    with pytest.raises(BufferError):
        rom.close()
    vm.set_user_memory_region(1, 0, None)


def test_the_guest_reads_memory_that_nobody_can_write(vm, rom, start, needs):
    """What is in the read-only mapping."""
    needs(Cap.READONLY_MEM)
    vm.set_user_memory_region(1, 0x10_0000, rom, MemoryFlag.READONLY)
    vcpu = start("a00000f4")  # mov al, [0]; hlt
    sregs = vcpu.get_sregs()
    sregs.ds.base = 0x10_0000
    vcpu.set_sregs(sregs)
    exit_ = vcpu.run()
    vm.set_user_memory_region(1, 0, None)
    if not isinstance(exit_, Hlt):
        pytest.skip("this KVM differs: memory that the host cannot write is not there")
    assert vcpu.get_regs().rax & 0xFF == 0x5A


def test_empty_memory_is_no_way_to_delete_a_slot(vm):
    """It is a mistake; the slot went away silently."""
    with pytest.raises(ValueError, match="memory is not empty: None deletes a slot"):
        vm.set_user_memory_region(0, 0, memoryview(vm.memory)[:0])
    with pytest.raises(BufferError):
        vm.memory.close()


@pytest.mark.parametrize("number", [10**6, 2**31 - 1])
def test_descriptors_that_are_not_open(kvm, vm, number):
    """They are the caller's, and the error is ours; it was a bare OSError, or none."""
    with pytest.raises(KvmUnavailable, match=f"cannot open file descriptor {number}: bad file"):
        Kvm.from_fd(number)
    for take in kvm.vm_from_fd, lambda n: vm.vcpu_from_fd(n, 0), DeviceFd.from_fd:
        with pytest.raises(KvmError, match=rf"fstat\({number}\) failed: Bad file descriptor"):
            take(number)


@pytest.mark.parametrize(("number", "kind"), [(-1, ValueError), ("3", TypeError)])
def test_descriptors_that_cannot_be(kvm, number, kind):
    """-1 was a machine that called itself closed."""
    for take in kvm.vm_from_fd, Kvm.from_fd, DeviceFd.from_fd:
        with pytest.raises(kind, match=r"^number is "):
            take(number)


def test_a_descriptor_of_something_else_is_no_machine(kvm):
    """/dev/null was taken for one."""
    number = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(KvmError, match=f"file descriptor {number} is no virtual machine") as caught:
        kvm.vm_from_fd(number)
    assert caught.value.errno == errno.ENOTTY
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_closed_vcpu_says_so_everywhere(start):
    """Its page too; some calls spoke of released memoryviews, or of rings that were never there."""
    vcpu = start("f4")
    vcpu.close()
    for use in (
        lambda: vcpu.immediate_exit,
        lambda: setattr(vcpu, "immediate_exit", True),
        lambda: vcpu.sync_regs,
        vcpu.map_dirty_ring,
        vcpu.coalesced_ring,
        vcpu.get_regs,
        vcpu.run,
        vcpu.kick,
    ):
        with pytest.raises(KvmClosedError, match="the VcpuFd 0 is closed"):
            use()


def test_views_end_with_their_vcpu(start):
    """close() takes back what the last exit lent, as run() does; it was said to stay readable."""
    vcpu = start("e410f4")  # in al, 0x10; hlt
    exit_ = vcpu.run()
    assert isinstance(exit_, IoIn)
    data = exit_.data
    vcpu.close()
    with pytest.raises(ValueError, match="released"):
        bytes(data)


def test_how_large_a_vcpu_s_mapping_is(kvm, vm):
    """The machine knows it, for those who map a vCPU's descriptor themselves."""
    assert vm.run_size == kvm.get_vcpu_mmap_size() >= 4096


def test_signals_that_cannot_be(start):
    """1 to 64 are signals; 0 was a negative shift count."""
    vcpu = start("f4")
    for mask, kind in ([0], ValueError), ([65], ValueError), (["SIGINT"], TypeError):
        with pytest.raises(kind, match=r"^a signal is "):
            vcpu.set_signal_mask(mask)
