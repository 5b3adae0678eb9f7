"""The real /dev/kvm: memory slots, and memory that belongs to the guest."""

from __future__ import annotations

import errno
import signal
from mmap import mmap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvm_ioctls import Cap, GuestMemfdFlag, Hlt, KvmClosedError, KvmError, MemoryFlag
from kvm_ioctls._slots import SlotTable, borrow

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]

MMAP_SHARED = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED


def test_an_overlap_names_the_slot_in_the_way(vm):
    """EEXIST says which slot is there, and from where to where."""
    memory = mmap(-1, 0x4000)
    with pytest.raises(KvmError, match="overlaps slot 0 at 0x0 to 0xffff") as caught:
        vm.set_user_memory_region(1, 0xE000, memory)
    assert caught.value.errno == errno.EEXIST
    memory.close()


def test_a_slot_is_not_in_its_own_way(vm):
    """One that moves onto another names that one, although it overlaps its own old place too."""
    memory = mmap(-1, 0x4000)
    vm.set_user_memory_region(1, 0x10000, memory)
    with pytest.raises(KvmError, match="overlaps slot 0 at 0x0 to 0xffff"):
        vm.set_user_memory_region(1, 0xE000, memory)
    vm.set_user_memory_region(1, 0, None)
    memory.close()


def test_a_handler_that_closes_the_machine(kvm):
    """At any moment of a change of its slots; the thread that makes it is told.

    The wrong behaviour: it waited for a lock that it held itself.
    """
    memory = mmap(-1, 0x1000)
    former = signal.getsignal(signal.SIGALRM)

    def change(vm) -> None:
        while True:
            vm.set_user_memory_region(1, 0x100000, memory)
            vm.set_user_memory_region(1, 0x100000, None)

    try:
        for number in range(30):
            vm = kvm.create_vm()
            signal.signal(signal.SIGALRM, lambda *_, vm=vm: vm.close())
            signal.setitimer(signal.ITIMER_REAL, 1e-3 + number * 50e-6)
            with pytest.raises(KvmClosedError):
                change(vm)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    memory.close()


def test_a_slot_can_move(vm):
    """The same memory at another place; its old place is free then."""
    vm.set_user_memory_region(0, 0x100000, vm.memory)
    memory = mmap(-1, 0x4000)
    vm.set_user_memory_region(1, 0, memory)
    vm.set_user_memory_region(1, 0, None)
    memory.close()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 4)), max_size=20),
    st.integers(0, 12),
    st.integers(1, 4),
)
def test_overlaps_are_found(steps, start, size):
    """Model: sets of pages. A slot overlaps exactly if it shares a page."""
    table, model = SlotTable(), {}
    machine = table.hold()
    for number, first, count in steps:
        slot = borrow(bytearray(count * 4096), first * 4096) if count else None
        table.replace(number, slot)
        model[number] = set(range(first, first + count))
    wanted = set(range(start, start + size))
    expected = {number for number, pages in model.items() if pages & wanted}
    assert {number for number, _ in table.overlapping(start * 4096, size * 4096)} == expected
    machine.leave()


PAGES = 4096
NUMBERS, SIZES = range(4), (1, 2, 5)


def expected(model, number, first, count) -> int:
    """The errno that KVM_SET_USER_MEMORY_REGION is documented to give; 0 for none."""
    mine = model.get(number)
    if count == 0:
        return 0 if mine else errno.EINVAL
    if mine and mine[1] != count:
        return errno.EINVAL  # neither its size nor its memory can change
    wanted = set(range(first, first + count))
    others = (one for other, one in model.items() if other != number)
    return errno.EEXIST if any(wanted & set(range(a, a + n)) for a, n in others) else 0


@settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example makes a machine
)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(NUMBERS), st.integers(0, 12), st.sampled_from((0, *SIZES))),
        max_size=25,
    )
)
def test_slots_are_what_kvm_has(kvm, steps):
    """Model: a dictionary. Each errno is its, and exactly the memory of its slots is held."""
    with kvm.create_vm() as vm:
        memory = {(n, size): mmap(-1, size * PAGES) for n in NUMBERS for size in SIZES}
        model = {}
        for number, first, count in steps:
            given_memory = memory[number, count] if count else None
            try:
                vm.set_user_memory_region(
                    number, first * PAGES, given_memory, MemoryFlag.LOG_DIRTY_PAGES
                )
                code = 0
            except KvmError as error:
                code = error.errno
            assert code == expected(model, number, first, count)
            if code == 0:
                model.pop(number, None)
                model |= {number: (first, count)} if count else {}
        for number in NUMBERS:
            if number in model:
                assert len(vm.get_dirty_log(number)) == 8
            else:
                with pytest.raises(KvmError, match="does not exist"):
                    vm.get_dirty_log(number)
        for (number, count), one in memory.items():
            if number in model and model[number][1] == count:
                with pytest.raises(BufferError):
                    one.close()
            else:
                one.close()


def test_a_guest_runs_from_a_guest_memfd(vm, start, needs):
    """Memory that a process only maps; its slot keeps it when it is closed."""
    needs(Cap.GUEST_MEMFD)
    if vm.check_extension(Cap.GUEST_MEMFD_FLAGS) & MMAP_SHARED != MMAP_SHARED:
        pytest.skip("this KVM has no KVM_CAP_GUEST_MEMFD_FLAGS")
    with vm.create_guest_memfd(0x2000, MMAP_SHARED) as private:
        mapped = private.map()
        mapped[:4] = bytes.fromhex("b042")[:2] + bytes.fromhex("90f4")  # mov al, 0x42; nop; hlt
        vm.set_user_memory_region2(1, 0x100000, mapped, private)
    vcpu = start("f4")
    sregs = vcpu.get_sregs()
    sregs.cs.base = 0x100000
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip = 0
    vcpu.set_regs(regs)
    assert isinstance(vcpu.run(), Hlt)
    assert vcpu.get_regs().rax & 0xFF == 0x42
    vm.set_user_memory_region(1, 0, None)
    mapped.close()


def test_attributes_need_a_machine_that_has_private_memory(vm):
    """Ordinary machines refuse KVM_SET_MEMORY_ATTRIBUTES, and the error says what was asked."""
    with pytest.raises(KvmError, match=r"KVM_SET_MEMORY_ATTRIBUTES\(size=0x1000, attributes=0x8\)"):
        vm.set_memory_attributes(0, 0x1000, 8)


def test_pre_faulting(start, needs):
    """Memory is mapped before it is touched, or the KVM says that it cannot."""
    needs(Cap.PRE_FAULT_MEMORY)
    assert start("f4").pre_fault_memory(0, 0x1000) == 0x1000


def test_addresses_for_real_mode(vm):
    """TSS and identity map are accepted before the first vCPU."""
    vm.set_tss_address(0xFFFB_D000)
    vm.set_identity_map_address(0xFFFB_C000)


def test_the_shadow_page_tables_share(vm, needs):
    """Their number of pages is set, and told by KVMs that can."""
    needs(Cap.MMU_SHADOW_CACHE_CONTROL)
    vm.set_nr_mmu_pages(1000)
    try:
        assert vm.get_nr_mmu_pages() == 1000
    except KvmError as error:
        assert error.errno == errno.ENOTTY  # noqa: PT017 - gone since Linux 6.4
