"""vm_memory's page-table walker against the hypervisors': both read the same tables."""

from __future__ import annotations

import random
import struct

import guests
import pytest
from machine import (
    CODE,
    NO_PAGE,
    PD0,
    PDPT,
    PML4,
    READ_ONLY_PAGE,
    SUPERVISOR_PAGE,
)

from kvm_ioctls import Hlt
from vm_memory import GuestMemory
from vm_memory.page_tables import PageTables
from vm_memory.translation_errors import PageWalkError

TABLE = 0x2_0000  # page directory and page table of the random mappings, behind everything else
NXE = 1 << 11
NX = 1 << 63
PAGE_SIZE = 1 << 7


@pytest.fixture
def copy():
    """A function that copies a machine's memory as it is now, for the walker to read."""
    copies = []

    def take(machine) -> GuestMemory:
        copies.append(GuestMemory.from_ranges([(0, len(machine.memory))]))
        copies[-1].write(0, machine.memory[:])
        return copies[-1]

    yield take
    for memory in copies:
        memory.close()


def walked(tables, address):
    """The physical address as KVM_TRANSLATE gives it, or None."""
    try:
        return tables.translate(address).physical_address
    except PageWalkError:
        return None


def translated(machine, address):
    answer = machine.vcpu.translate(address)
    return answer.physical_address if answer.valid else None


def test_the_machines_own_tables(machine, copy):
    """Pages of 2 MiB, their offsets, and holes on every level lead where KVM_TRANSLATE says."""
    machine.long_mode(guests.LOAD_RBX)
    tables = PageTables(copy(machine), PML4, no_execute=False)
    addresses = [0, CODE, 0x20_0123, 0x3FFF_FFFF, 0xC000_0000, 0xFFFF_FFFF]
    addresses += [SUPERVISOR_PAGE + 0x77, READ_ONLY_PAGE, NO_PAGE, 0x80_0000_0000, 2**64 - 1]
    found = {address: walked(tables, address) for address in addresses}
    assert found == {address: translated(machine, address) for address in addresses}
    assert None in found.values()
    assert 0xFFFF_FFFF in found.values()


@pytest.mark.parametrize("spread", range(3))
def test_random_tables(machine, copy, spread):
    """Pages of both sizes, holes and every permission: both find the same page, or both none."""
    assert _compare_random_tables(machine, copy, spread, [0, 1, 3, 7, 7 | NX, 7 | 1 << 52]) > 100


@pytest.mark.parametrize(
    "reserved", [1 << 13 | PAGE_SIZE, 1 << 20 | PAGE_SIZE], ids=["bit 13", "bit 20"]
)
def test_reserved_bits(machine, copy, soft_kvm_differs, reserved):
    """A page of 2 MiB whose address is not a multiple of that: both find no page."""
    soft_kvm_differs("reserved bits in page-table entries are ignored")
    assert _compare_random_tables(machine, copy, 0, [7, 7 | reserved]) > 100


def _compare_random_tables(machine, copy, seed, flags) -> int:
    """Compares walks of random addresses, a part of which has a page; how many pages they find."""
    machine.long_mode(guests.LOAD_RBX)
    sregs = machine.vcpu.get_sregs()
    sregs.efer |= NXE
    machine.vcpu.set_sregs(sregs)
    chance = random.Random(seed)  # noqa: S311 - the same tables in every run
    pages = [chance.randrange(1 << 24) << 12 | chance.choice(flags) for _ in range(512)]
    large = [chance.randrange(1 << 15) << 21 | chance.choice(flags) | PAGE_SIZE for _ in range(256)]
    tables = [(TABLE + 0x1000) | chance.choice(flags) & ~PAGE_SIZE for _ in range(256)]
    machine.put(TABLE, struct.pack("<512Q", *large, *tables))
    machine.put(TABLE + 0x1000, struct.pack("<512Q", *pages))
    machine.put(PDPT + 8 * 4, struct.pack("<Q", TABLE | 7))
    walker = PageTables(copy(machine), PML4)
    answers = set()
    for _ in range(1000):
        address = 4 << 30 | chance.randrange(1 << 30)
        found = walked(walker, address)
        assert found == translated(machine, address), hex(address)
        answers.add(found)
    assert None in answers
    return len(answers)


@pytest.mark.parametrize("bits", [7, 5, 1 << 1 | 4, 7 | 1 << 63])
def test_what_the_walker_grants_the_guest_may_do(machine, copy, bits):
    """A store of the guest faults exactly if the walker finds no page or no permission for it."""
    page = 0x1E0_0000
    machine.long_mode(guests.STORE_RBX, rbx=page + 0x6000)
    sregs = machine.vcpu.get_sregs()
    sregs.efer |= NXE
    machine.vcpu.set_sregs(sregs)
    machine.put(PD0 + 8 * (page >> 21), struct.pack("<Q", PAGE_SIZE | bits))
    tables = PageTables(copy(machine), PML4)
    physical = walked(tables, page + 0x6000)
    expected = physical is not None and tables.translate(page + 0x6000).writable
    assert isinstance(machine.run(), Hlt)
    faulted = machine.vcpu.get_sregs().cr2 == page + 0x6000
    assert faulted != expected
