"""Memory slots: adding, deleting, refusing; read-only memory, holes, dirty pages."""

from __future__ import annotations

import errno
from mmap import mmap

import guests
import pytest

from kvm_ioctls import Cap, Hlt, InternalError, KvmError, MmioRead, MmioWrite
from vm_memory import GuestMemory, GuestRegion

LOG_DIRTY_PAGES, READONLY = 1, 2
EMULATION = 1


@pytest.fixture
def extra():
    """16 KiB to be given to a guest; free when the machine lets go of it."""
    return mmap(-1, 0x4000)


def _refused(machine, *args) -> int:
    with pytest.raises(KvmError) as caught:
        machine.vm.set_user_memory_region(*args)
    assert caught.value.ioctl == "KVM_SET_USER_MEMORY_REGION"
    return caught.value.errno


@pytest.fixture
def at_80000(machine):
    """A guest that stores AL at 0x80000 and loads it back into CL."""
    machine.real_mode(guests.STORE_LOAD_REAL, rax=0x5A, rbx=0)
    machine.real_mode_segment("ds", 0x80000)
    return machine


def test_a_slot_is_memory_until_it_is_deleted(at_80000, extra):
    """Accesses go to the slot's memory; without it they are exits."""
    at_80000.vm.set_user_memory_region(1, 0x80000, extra)
    assert at_80000.run_to_hlt() == []
    assert extra[0] == 0x5A
    at_80000.vm.set_user_memory_region(1, 0x80000, None)
    at_80000.real_mode(guests.STORE_LOAD_REAL, rax=0x33)
    at_80000.real_mode_segment("ds", 0x80000)
    assert isinstance(at_80000.run(), MmioWrite)
    assert extra[0] == 0x5A


def test_a_slot_moves(at_80000, extra):
    """The same slot number with another address takes its memory along."""
    at_80000.vm.set_user_memory_region(1, 0x90000, extra)
    at_80000.vm.set_user_memory_region(1, 0x80000, extra)
    assert at_80000.run_to_hlt() == []
    assert extra[0] == 0x5A


def test_a_part_of_a_mapping_is_a_slot(at_80000, extra):
    """A slot can be a slice of an mmap."""
    at_80000.vm.set_user_memory_region(1, 0x80000, memoryview(extra)[0x1000:0x3000])
    assert at_80000.run_to_hlt() == []
    assert extra[0x1000] == 0x5A


def test_two_views_of_the_same_memory(at_80000):
    """The same memory can be at two addresses."""
    at_80000.vm.set_user_memory_region(1, 0x80000, memoryview(at_80000.memory)[:0x4000])
    assert at_80000.run_to_hlt() == []
    assert at_80000.memory[0] == 0x5A


def test_overlapping_slots_are_refused(machine, extra):
    """EEXIST, and the machine goes on with what it had."""
    assert _refused(machine, 1, 0x3F000, extra) == errno.EEXIST
    machine.real_mode(guests.HLT_THEN_OUT)
    assert isinstance(machine.run(), Hlt)


@pytest.mark.parametrize("address", [0x80001, 0x80800])
def test_unaligned_addresses_are_refused(machine, extra, address):
    """EINVAL for an address within a page."""
    assert _refused(machine, 1, address, extra) == errno.EINVAL


@pytest.mark.parametrize("part", [slice(0, 0x1800), slice(0x800, 0x1800)])
def test_unaligned_memory_is_refused(machine, extra, part):
    """EINVAL for a size or a place in our own memory that is not a multiple of the page size."""
    assert _refused(machine, 1, 0x80000, memoryview(extra)[part]) == errno.EINVAL


def test_deleting_what_is_not_there_is_refused(machine):
    """EINVAL."""
    assert _refused(machine, 7, 0, None) == errno.EINVAL


def test_resizing_a_slot_is_refused(machine, extra):
    """EINVAL: delete it first."""
    machine.vm.set_user_memory_region(1, 0x80000, extra)
    assert _refused(machine, 1, 0x80000, memoryview(extra)[:0x1000]) == errno.EINVAL


def test_unknown_flags_are_refused(machine, extra):
    """EINVAL."""
    assert _refused(machine, 1, 0x80000, extra, 0x80) == errno.EINVAL


def test_the_slot_holds_its_memory(machine):
    """Closing an mmap under a slot raises BufferError; deleting the slot gives it free."""
    memory = mmap(-1, 0x1000)
    machine.vm.set_user_memory_region(1, 0x80000, memory)
    with pytest.raises(BufferError):
        memory.close()
    machine.vm.set_user_memory_region(1, 0x80000, None)
    memory.close()


def test_read_only_memory(hypervisor, at_80000, extra):
    """Loads come from memory, stores are exits and leave it alone."""
    if not hypervisor.check_extension(Cap.READONLY_MEM):
        pytest.skip(f"no {Cap.READONLY_MEM!r}")
    extra[0] = 0x99
    at_80000.vm.set_user_memory_region(1, 0x80000, extra, READONLY)
    match at_80000.run():
        case MmioWrite(address, data):
            assert (address, bytes(data)) == (0x80000, b"\x5a")
        case other:
            pytest.fail(repr(other))
    assert at_80000.run_to_hlt() == []
    assert extra[0] == 0x99
    assert at_80000.vcpu.get_regs().rcx == 0x99


def test_code_runs_from_another_slot(machine, extra):
    """A slot that is added later can be jumped to."""
    extra[:5] = guests.HLT_THEN_OUT[1:]
    machine.vm.set_user_memory_region(1, 0x80000, extra)
    machine.real_mode(guests.SPIN, rip=0)
    machine.real_mode_segment("cs", 0x80000)
    assert machine.run_to_hlt() == [(0xE0, b"A")]


def test_fetching_from_a_hole_is_an_internal_error(machine):
    """KVM cannot emulate an instruction that it cannot read."""
    machine.real_mode(guests.SPIN, rip=0)
    machine.real_mode_segment("cs", 0x80000)
    match machine.run():
        case InternalError(suberror):
            assert suberror == EMULATION
        case other:
            pytest.fail(repr(other))


def test_memory_above_4_gib(machine, extra):
    """A slot at 8 GiB answers to long mode; beyond it are exits."""
    machine.vm.set_user_memory_region(1, 8 << 30, extra)
    machine.long_mode(guests.STORE_HIGH, rbx=NEAR_8_GIB, rax=0x1122334455667788)
    machine.put(0xA010, (0x10007).to_bytes(8, "little"))  # PDPT[2] -> page directory at 0x10000
    machine.put(0x10000, (8 << 30 | 0x83).to_bytes(8, "little"))
    assert machine.run_to_hlt() == []
    assert extra[0x10:0x18] == bytes.fromhex("8877665544332211")
    assert machine.vcpu.get_regs().rcx == 0x1122334455667788
    machine.vcpu.set_regs(_at(machine, rbx=(2 << 30) + 0x4000))
    exit_ = machine.run()
    assert isinstance(exit_, MmioWrite)
    while isinstance(exit_, MmioWrite):  # of 8 bytes at once or in parts
        exit_ = machine.run()
    assert isinstance(exit_, MmioRead)


NEAR_8_GIB = (2 << 30) + 0x10


def _at(machine, **changes):
    regs = machine.vcpu.get_regs()
    regs.rip = 0x1000
    for name, value in changes.items():
        setattr(regs, name, value)
    return regs


def test_dirty_log(make_machine):
    """The log tells the pages written since the last call, sized by the slot."""
    machine = make_machine(size=0x80000)
    machine.vm.set_user_memory_region(0, 0, machine.memory, LOG_DIRTY_PAGES)
    machine.real_mode(guests.TOUCH_PAGES)
    machine.vm.get_dirty_log(0)
    assert machine.run_to_hlt() == []
    log = machine.vm.get_dirty_log(0)
    assert len(log) == 16  # 128 pages
    pages = int.from_bytes(log, "little")
    assert pages & 0x28 == 0x28
    assert not pages >> 128
    assert not any(machine.vm.get_dirty_log(0))


def test_dirty_pages_of_guest_and_devices(at_80000):
    """What the guest writes is in the hypervisor's log, what devices write in vm_memory's bitmap.

    The slot is made of `slot_memory`, so its borrow does not count as one long write, and `merge`
    makes one log of both.
    """
    region = GuestRegion.anonymous(0x80000, 0x4000, track_dirty=True)
    at_80000.vm.set_user_memory_region(1, 0x80000, region.slot_memory, LOG_DIRTY_PAGES)
    memory = GuestMemory([region])
    assert at_80000.run_to_hlt() == []
    memory.write(0x82FFF, b"device")
    region.dirty.merge(at_80000.vm.get_dirty_log(1))
    assert memory.read(0x80000, 1) == b"\x5a"
    assert memory.get_and_reset_dirty() == [(0x80000, 0x1000), (0x82000, 0x2000)]
    region.dirty.merge(at_80000.vm.get_dirty_log(1))
    assert memory.get_and_reset_dirty() == []
    with pytest.raises(BufferError):
        memory.close()
    at_80000.vm.set_user_memory_region(1, 0x80000, None)
    memory.close()


def test_the_log_of_a_slot_that_is_not_there(machine):
    """ENOENT."""
    with pytest.raises(KvmError) as caught:
        machine.vm.get_dirty_log(5)
    assert caught.value.errno == errno.ENOENT
