"""The real /dev/kvm: which pages a guest wrote, and what it wrote to coalesced zones."""

from __future__ import annotations

import errno
import os
import threading
from array import array
from mmap import mmap

import pytest

from kvm_ioctls import Cap, CoalescedWrite, DirtyPage, Hlt, KvmError, MemoryFlag, Mmio, Pio
from kvm_ioctls._descriptor import Descriptor

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]

# mov byte [bx], 1; hlt
STORE = "c60701f4"


def pages(bitmap: bytes) -> set[int]:
    """The numbers of the set bits."""
    bits = int.from_bytes(bitmap, "little")
    return {n for n in range(bits.bit_length()) if bits >> n & 1}


@pytest.fixture
def logged(vm):
    """The machine, its memory's slot logging dirty pages."""
    vm.set_user_memory_region(0, 0, vm.memory, MemoryFlag.LOG_DIRTY_PAGES)
    return vm


def test_reading_a_log_clears_it(logged, start):
    """The page that was written shows once."""
    vcpu = start(STORE, rbx=0x5000)
    logged.get_dirty_log(0)
    assert isinstance(vcpu.run(), Hlt)
    assert 5 in pages(logged.get_dirty_log(0))
    assert 5 not in pages(logged.get_dirty_log(0))


def test_a_log_that_is_cleared_by_hand(logged, start, needs):
    """With manual protection, pages stay until clear_dirty_log() names them."""
    needs(Cap.MANUAL_DIRTY_LOG_PROTECT2)
    logged.enable_manual_dirty_log()
    vcpu = start(STORE, rbx=0x5000)
    vcpu.run()
    for _ in range(2):
        assert 5 in pages(logged.get_dirty_log(0))
    logged.clear_dirty_log(0, memoryview(array("Q", [1 << 5])))
    assert 5 not in pages(logged.get_dirty_log(0))


def test_all_pages_count_as_written_at_first(vm, needs):
    """initially_set: a new log has every bit of the slot and no other."""
    needs(Cap.MANUAL_DIRTY_LOG_PROTECT2)
    vm.enable_manual_dirty_log(initially_set=True)
    memory = mmap(-1, 65 * 4096)
    vm.set_user_memory_region(1, 0x100000, memory, MemoryFlag.LOG_DIRTY_PAGES)
    assert pages(vm.get_dirty_log(1)) == set(range(65))
    vm.clear_dirty_log(1, b"\xff" * 16)
    assert pages(vm.get_dirty_log(1)) == set()


def test_no_page_counts_as_written_at_first(vm, needs):
    """Unless that is asked for."""
    needs(Cap.MANUAL_DIRTY_LOG_PROTECT2)
    vm.enable_manual_dirty_log()
    memory = mmap(-1, 65 * 4096)
    vm.set_user_memory_region(1, 0x100000, memory, MemoryFlag.LOG_DIRTY_PAGES)
    assert pages(vm.get_dirty_log(1)) == set()


def test_the_pages_that_follow_the_first(vm, needs):
    """By default a log is cleared from there to the slot's end: so many bits are enough."""
    needs(Cap.MANUAL_DIRTY_LOG_PROTECT2)
    vm.enable_manual_dirty_log(initially_set=True)
    memory = mmap(-1, 200 * 4096)
    vm.set_user_memory_region(1, 0x100000, memory, MemoryFlag.LOG_DIRTY_PAGES)
    vm.clear_dirty_log(1, b"\xff" * 24, 64)
    assert pages(vm.get_dirty_log(1)) == set(range(64))


@pytest.mark.parametrize(
    ("acq_rel", "cap"), [(0, Cap.DIRTY_LOG_RING), (65536, Cap.DIRTY_LOG_RING_ACQ_REL)]
)
def test_the_ring_with_the_memory_ordering_is_preferred(vm, monkeypatch, acq_rel, cap):
    """Where there is one."""
    enabled = []
    monkeypatch.setattr(Descriptor, "ioctl", lambda *_: acq_rel)
    monkeypatch.setattr(type(vm), "enable_cap", lambda _, *arguments: enabled.append(arguments))
    vm.enable_dirty_ring(4096)
    assert enabled == [(cap, 4096)]


@pytest.mark.parametrize(
    "call",
    [
        lambda vm: vm.get_dirty_log(0),
        lambda vm: vm.clear_dirty_log(0, bytes(8)),
        lambda vm: vm.set_user_memory_region(0, 0, None),
        lambda vm: vm.close(),
    ],
)
def test_slots_are_one_thread_s_at_a_time(logged, call):
    """Whoever needs to know them waits for who is changing them."""
    logged.enable_manual_dirty_log()
    done = threading.Event()

    def run() -> None:
        call(logged)
        done.set()

    thread = threading.Thread(target=run)
    with logged._slots.lock:
        thread.start()
        assert not done.wait(0.05)
    assert done.wait(5)
    thread.join()


def test_a_bitmap_that_is_too_short_is_refused(logged):
    """KVM would read past it, whoever asked for how many pages."""
    logged.enable_manual_dirty_log()
    with pytest.raises(ValueError, match="16 pages need more than 7 bytes"):
        logged.clear_dirty_log(0, bytes(7))
    with pytest.raises(ValueError, match="64 pages need more than 4 bytes"):
        logged.clear_dirty_log(0, bytes(4), num_pages=64)
    with pytest.raises(ValueError, match="num_pages is 0x0 to 0xffffffff, not -0x7"):
        logged.clear_dirty_log(0, bytes(8), num_pages=-7)
    with pytest.raises(TypeError, match="slot is an int, not 'x'"):
        logged.get_dirty_log("x")


@pytest.mark.parametrize("call", ["get_dirty_log", "clear_dirty_log"])
def test_logs_of_no_slot(vm, call):
    """ENOENT names the slot."""
    arguments = (9,) if call == "get_dirty_log" else (9, bytes(8))
    with pytest.raises(KvmError, match=r"slot=0x9.*does not exist") as caught:
        getattr(vm, call)(*arguments)
    assert caught.value.errno == errno.ENOENT


def test_clearing_from_an_odd_page(logged):
    """EINVAL says what has to be a multiple of 64."""
    logged.enable_manual_dirty_log()
    with pytest.raises(KvmError, match="multiple of 64"):
        logged.clear_dirty_log(0, bytes(8), first_page=1)


def test_a_dirty_ring(logged, start, needs):
    """Pages arrive in the vCPU's ring with slot and number, and can be taken back."""
    needs(Cap.DIRTY_LOG_RING)
    logged.enable_dirty_ring(65536)
    vcpu = start(STORE, rbx=0x5000)
    with vcpu.map_dirty_ring() as ring:
        ring.harvest()
        logged.reset_dirty_rings()
        vcpu.run()
        harvested = ring.harvest()
        assert DirtyPage(0, 5) in harvested
        assert ring.harvest() == []
        assert logged.reset_dirty_rings() == len(harvested)
    with pytest.raises(ValueError, match="closed"):
        ring.harvest()
    with pytest.raises(KvmError, match="go to the vCPUs' rings"):
        logged.get_dirty_log(0)


def test_a_ring_is_mapped_again(logged, start, needs):
    """It goes on where it was, and one at a time is mapped.

    The wrong behaviour: a second one began at the first entry, and found nothing there for ever.
    """
    needs(Cap.DIRTY_LOG_RING)
    logged.enable_dirty_ring(65536)
    vcpu = start("c60701f4" * 3, rbx=0x5000)
    for _ in range(3):
        with vcpu.map_dirty_ring() as ring:
            with pytest.raises(ValueError, match="close that first"):
                vcpu.map_dirty_ring()
            assert isinstance(vcpu.run(), Hlt)
            assert DirtyPage(0, 5) in ring.harvest()
            logged.reset_dirty_rings()


def test_a_machine_with_two_objects_has_one_set_of_slots(kvm):
    """What one changes, the other knows: how long a dirty log is, and whose memory is in use.

    The wrong behaviour: the kernel wrote the log of a slot that another object had made larger.
    """
    small, large = mmap(-1, 0x1000), mmap(-1, 0x100000)
    with kvm.create_vm() as first:
        other = kvm.vm_from_fd(os.dup(first.fileno()))
        first.set_user_memory_region(0, 0, small, MemoryFlag.LOG_DIRTY_PAGES)
        other.set_user_memory_region(0, 0, None)
        small.close()
        other.set_user_memory_region(0, 0, large, MemoryFlag.LOG_DIRTY_PAGES)
        assert len(first.get_dirty_log(0)) == 32
        other.close()
        with pytest.raises(BufferError):
            large.close()
    large.close()


def test_a_machine_that_may_be_one_of_ours(kvm, monkeypatch):
    """Where the kernel does not compare descriptors, it is refused."""

    def forbidden(*_: int) -> bool:
        raise PermissionError(errno.EPERM, "forbidden")

    with kvm.create_vm() as vm:
        monkeypatch.setattr("kvm_ioctls._run.same_file", forbidden)
        number = os.dup(vm.fileno())
        with pytest.raises(KvmError, match=r"kcmp failed.*EPERM.*has an object already"):
            kvm.vm_from_fd(number)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)


def test_no_ring_without_asking(start):
    """map_dirty_ring() says what comes first."""
    with pytest.raises(ValueError, match="enable_dirty_ring"):
        start(STORE).map_dirty_ring()


def test_coalesced_zones(vm, start):
    """Writes to a zone are no exits; they come out of the ring in order, ports and memory."""
    # mov al, 1; out 0x80, al; mov byte [bx], 2; mov word [bx+2], 0x403; hlt
    vcpu = start("b001e680c60702c747020304f4", rbx=0)
    sregs = vcpu.get_sregs()
    sregs.ds.base = 0xF000_0000
    vcpu.set_sregs(sregs)
    vm.register_coalesced_mmio(Mmio(0xF000_0000), 0x1000)
    vm.register_coalesced_mmio(Pio(0x80), 1)
    assert isinstance(vcpu.run(), Hlt)
    ring = vcpu.coalesced_ring()
    assert ring.drain() == [
        CoalescedWrite(Pio(0x80), b"\1"),
        CoalescedWrite(Mmio(0xF000_0000), b"\2"),
        CoalescedWrite(Mmio(0xF000_0002), b"\3\4"),
    ]
    assert ring.drain() == []


def test_a_zone_that_ended(vm, start):
    """After unregistering, a write is an exit again."""
    vm.register_coalesced_mmio(Pio(0x80), 1)
    vm.unregister_coalesced_mmio(Pio(0x80), 1)
    vcpu = start("e680f4")
    assert vcpu.run().port == 0x80


def test_the_ring_is_the_machine_s(vm, start):
    """What one vCPU wrote, another one's ring shows, once."""
    vm.register_coalesced_mmio(Pio(0x80), 1)
    first = start("b007e680f4")
    first.run()
    with vm.create_vcpu(1) as second:
        assert second.coalesced_ring().drain() == [CoalescedWrite(Pio(0x80), b"\7")]
        assert first.coalesced_ring().drain() == []
