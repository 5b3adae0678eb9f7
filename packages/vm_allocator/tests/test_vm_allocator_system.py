"""IdAllocator, GsiAllocator and SystemAllocator by example."""

from __future__ import annotations

import copy
import json

import pytest

from vm_allocator import (
    RAM,
    Allocation,
    AlreadyReleased,
    ExactMatch,
    GsiAllocator,
    IdAllocator,
    IdInUse,
    IdOutOfRange,
    IdState,
    InvalidIdRange,
    InvalidRange,
    InvalidSize,
    LastMatch,
    NeverAllocated,
    NoFreeId,
    NoFreeRange,
    NotAllocated,
    NotMmio,
    OutOfRange,
    Overlap,
    Range,
    ReservedOwner,
    SystemAllocator,
)

WINDOWS = {
    "platform_mmio": Range(0x1_0000, 0x1_FFFF),
    "pci_mmio32": Range(0x2_0000, 0x2_FFFF),
    "pci_mmio64": Range(0x3_0000, 0x3_FFFF),
}


def make_system():
    return SystemAllocator(
        [(0, 0xC000_0000), (0x1_0000_0000, 0x1000_0000)],
        platform_mmio=Range(0xC000_0000, 0xC000_FFFF),
        pci_mmio32=Range(0xC001_0000, 0xFEBF_FFFF),
        pci_mmio64=Range(0x1_0000_0000, 0x2_FFFF_FFFF),
    )


def test_ids_come_lowest_first():
    """A released identifier comes before one that was never used."""
    ids = IdAllocator(3, 6)
    assert [ids.allocate() for _ in range(3)] == [3, 4, 5]
    ids.free(4)
    assert [ids.allocate(), ids.allocate()] == [4, 6]
    with pytest.raises(NoFreeId, match="every identifier from 3 to 6 is in use"):
        ids.allocate()


def test_exhaustion_at_the_highest_id_is_no_overflow():
    """The anchor reports Overflow when its range ends at the largest number."""
    ids = IdAllocator(2**32 - 1, 2**32 - 1)
    assert ids.allocate() == 2**32 - 1
    with pytest.raises(NoFreeId):
        ids.allocate()


def test_id_free_errors_are_distinct():
    """Outside, never handed out, and handed out but given back."""
    ids = IdAllocator(0, 7)
    ids.free(ids.allocate())
    with pytest.raises(IdOutOfRange, match=r"^identifier 8 is not between 0 and 7$"):
        ids.free(8)
    with pytest.raises(NeverAllocated, match="identifier 1 was never allocated"):
        ids.free(1)
    with pytest.raises(AlreadyReleased, match="identifier 0 was already released"):
        ids.free(0)


def test_reserved_id_is_skipped():
    """`allocate` walks around an identifier that somebody reserved."""
    ids = IdAllocator(0, 2)
    ids.reserve(1)
    with pytest.raises(IdInUse, match="identifier 1 is already in use"):
        ids.reserve(1)
    assert [ids.allocate(), ids.allocate()] == [0, 2]


def test_reserving_again_and_again_leaves_nothing_behind():
    """A released identifier is remembered once, however often it comes and goes."""
    ids = IdAllocator(0, 7)
    ids.allocate()
    for _ in range(100):
        ids.free(0)
        ids.reserve(0)
    ids.free(0)
    assert len(ids._released) == 1
    assert ids.allocate() == 0


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (IdState(0, 7, (1, 1), ()), IdInUse),
        (IdState(0, 7, (1,), (1,)), IdInUse),
        (IdState(0, 7, (8,), ()), IdOutOfRange),
        (IdState(7, 0, (), ()), InvalidIdRange),
    ],
)
def test_ids_restore_trusts_nothing(state, error):
    """A record that no allocator can have saved is refused."""
    with pytest.raises(error):
        IdAllocator.restore(state)


def test_reserving_does_not_search_what_was_released():
    """Of the heap an entry is only marked, and made anew when more than half of it is."""
    ids = IdAllocator(0, 999)
    for id_ in [ids.allocate() for _ in range(1000)]:
        ids.free(id_)
    heap = ids._released
    for id_ in range(500):
        ids.reserve(id_)
    assert ids._released is heap
    assert len(heap) == 1000
    ids.reserve(500)
    assert ids._released == list(range(501, 1000))
    assert ids.allocate() == 501


def test_id_range_must_be_one():
    """The end may not lie before the base; both are printed as identifiers are, in decimal."""
    for base, end in [(12, 11), (-1, 3), (0, 2**64)]:
        with pytest.raises(
            InvalidIdRange, match=f"^there are no identifiers from {base} to {end}:"
        ):
            IdAllocator(base, end)


def test_pins_and_msi_gsis_do_not_mix():
    """Pins end at the IOAPIC's last one; MSI routes count on from there."""
    gsis = GsiAllocator()
    gsis.reserve(5)
    assert gsis.allocate_pin() == 6
    assert gsis.allocate_msi() == 24
    gsis.free(24)
    gsis.free(5)
    assert gsis.allocate_pin() == 5
    assert gsis.allocate_msi() == 24
    for gsi in (-1, 4096):
        with pytest.raises(IdOutOfRange, match=f"identifier {gsi} is not between 0 and 4095"):
            gsis.free(gsi)


def test_legacy_pins_are_taken_by_name_alone():
    """A legacy device holds its pin as any other does, but nobody is handed one by chance."""
    gsis = GsiAllocator()
    for pin in range(5):
        gsis.reserve(pin)
    with pytest.raises(IdInUse):
        gsis.reserve(4)
    gsis.free(4)
    with pytest.raises(AlreadyReleased):
        gsis.free(4)
    assert gsis.allocate_pin() == 5
    assert gsis.used() == (0, 1, 2, 3, 5)
    assert GsiAllocator.restore(gsis.save()) == gsis
    system = SystemAllocator([], **WINDOWS, gsis=gsis)
    assert system.platform_map().gsis == (0, 1, 2, 3, 5)


def test_all_pins_may_be_handed_out():
    """Without legacy devices the first pin is 0."""
    gsis = GsiAllocator(first_pin=0)
    assert (gsis.legacy, gsis.allocate_pin()) == (None, 0)
    assert GsiAllocator.restore(gsis.save()) == gsis


@pytest.mark.parametrize(
    ("lines", "message"),
    [((5, 23, 23), "from 24 to 23"), ((5, 4, 99), "from 5 to 4"), ((-1, 4, 99), "from -1 to 4")],
)
def test_pins_and_gsis_must_be_some(lines, message):
    """No pin, no GSI behind the pins, or less than none."""
    with pytest.raises(InvalidIdRange, match=message):
        GsiAllocator(*lines)


def test_ram_is_registered_from_the_start():
    """A window drawn over RAM yields only what lies beside the RAM."""
    system = make_system()
    assert system.allocate_pci_mmio64(0x1000, owner="BAR").start == 0x1_1000_0000
    with pytest.raises(Overlap, match=r"overlaps 0x100000000-0x10fffffff \(RAM\)"):
        system.allocate_pci_mmio64(0x1000, policy=ExactMatch(0x1_0000_0000))


def test_overlapping_ram_is_refused():
    """Two RAM ranges that share an address are an error."""
    with pytest.raises(Overlap, match="RAM"):
        SystemAllocator([(0, 0x1000), (0xFFF, 1)], **WINDOWS)


def test_windows_share_one_map():
    """What one window's device took, another window's cannot take."""
    system = make_system()
    first = system.allocate_platform_mmio(0x10, owner="virtio-blk")
    assert first == Range(0xC000_0000, 0xC000_000F)
    assert system.allocate_platform_mmio(0x10).start == 0xC000_1000
    assert system.allocate_pci_mmio32(0x10_0000, 0x10_0000).start == 0xC010_0000
    assert system.allocate_pci_mmio32(0x1000, policy=LastMatch).end == 0xFEBF_FFFF
    with pytest.raises(NoFreeRange, match="in 0xc0000000-0xc000ffff"):
        system.allocate_platform_mmio(0x1_0000)
    system.free_mmio(first)
    assert system.allocate_platform_mmio(0x1000).start == 0xC000_0000


def test_windows_for_32_bit_addresses_end_below_4_gib():
    """Only the 64-bit PCI window may lie above."""
    high = Range(0xFFFF_F000, 0x1_0000_0FFF)
    for name in ("platform_mmio", "pci_mmio32"):
        with pytest.raises(OutOfRange, match="0xfffff000-0x100000fff is not inside 0x0-0xffffffff"):
            SystemAllocator([], **(WINDOWS | {name: high}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("platform_mmio", "pci_mmio32"),
        ("platform_mmio", "pci_mmio64"),
        ("pci_mmio32", "pci_mmio64"),
    ],
)
def test_windows_do_not_overlap(one, other):
    """A host bridge would decode what another window's devices are given."""
    both = Range(WINDOWS[one].start, WINDOWS[other].start)
    windows = {name: Range.sized(window.start + 0x10_0000, 1) for name, window in WINDOWS.items()}
    with pytest.raises(Overlap, match=rf"^{both} overlaps {WINDOWS[other]} \({other}\)$"):
        SystemAllocator([], **(windows | {one: both, other: WINDOWS[other]}))


@pytest.mark.parametrize("piece", [(0, 0), (0, -1), (-1, 2), (2**64 - 1, 2)])
def test_ram_is_made_of_ranges(piece):
    """A piece without a size or beyond 2^64 is refused."""
    with pytest.raises((InvalidSize, InvalidRange)):
        SystemAllocator([piece], **WINDOWS)


def test_memory_is_not_given_back_as_mmio():
    """Neither RAM below a window nor RAM inside one; `physical.free` removes memory."""
    system = make_system()
    for start, size in ((0, 0xC000_0000), (0x1_0000_0000, 0x1000_0000), (0x1000, 0x1000)):
        with pytest.raises(NotMmio, match=r"is not MMIO: it touches .*\(RAM\)$"):
            system.free_mmio(Range.sized(start, size))
    assert system == make_system()
    system.physical.free(Range.sized(0x1_0000_0000, 0x1000_0000))
    assert system.platform_map().ram == (Range(0, 0xBFFF_FFFF),)


def test_what_is_outside_of_the_windows_is_not_given_back_as_mmio():
    """A fixed device beside the windows, or a range across two of them, is no MMIO of theirs."""
    system = make_system()
    ioapic = Range.sized(0xFEC0_0000, 0x1000)
    system.physical.reserve(ioapic, "IOAPIC")
    for range_ in (ioapic, Range(0xC000_FFFF, 0xC001_0000)):
        with pytest.raises(NotMmio, match=f"^{range_} is not MMIO: it is outside of the windows"):
            system.free_mmio(range_)
    assert system.physical.find(ioapic.start) is not None
    with pytest.raises(NotAllocated):
        system.free_mmio(Range(0xC000_0000, 0xC000_0FFF))
    with pytest.raises(TypeError, match="is no Range"):
        system.free_mmio((0xC000_0000, 0xC000_0FFF))


@pytest.mark.parametrize("kind", ["platform_mmio", "pci_mmio32", "pci_mmio64", "pio"])
def test_no_device_is_named_as_memory(kind):
    """A device of that name would be told to the guest as memory."""
    system = make_system()
    with pytest.raises(ReservedOwner, match="no device can be named 'RAM', as guest memory is"):
        getattr(system, f"allocate_{kind}")(0x1000, owner=RAM)
    assert system == make_system()


def test_what_is_reserved_in_a_pci_window_is_not_on_pci():
    """The guest is told only of what the host bridge decodes: BARs, and room for more."""
    system = SystemAllocator([], **WINDOWS)
    bar = system.allocate_pci_mmio32(0x1000, owner="BAR")
    system.physical.reserve(Range(0x2_8000, 0x2_8FFF), "fixed")
    system.allocate_pci_mmio64(0x1_0000, owner="BAR")
    expected = (Range(0x2_0000, 0x2_7FFF), Range(0x2_9000, 0x2_FFFF))
    for one in (system, SystemAllocator.restore(system.save()), copy.deepcopy(system)):
        assert one.platform_map().pci_mmio32 == expected
        assert one.platform_map().pci_mmio64 == (WINDOWS["pci_mmio64"],)
    system.free_mmio(bar)
    assert system.platform_map().pci_mmio32 == expected
    system.physical.reserve(bar, "fixed, too")
    assert system.platform_map().pci_mmio32 == (Range(0x2_1000, 0x2_7FFF), expected[1])


def test_what_became_of_a_bar_behind_our_back():
    """`physical` is open to all: memory in the place of a BAR is memory, and can be saved."""
    system = SystemAllocator([], **WINDOWS)
    bar = system.allocate_pci_mmio32(0x1000)
    system.physical.free(bar)
    system.physical.reserve(bar, RAM)
    assert system.platform_map().pci_mmio32 == (Range(0x2_1000, 0x2_FFFF),)
    assert SystemAllocator.restore(system.save()) == system


def test_ports_are_aligned():
    """An alignment is that of the first port."""
    system = make_system()
    system.allocate_pio(1)
    assert system.allocate_pio(8, 8) == Range(8, 15)


def test_platform_map_is_what_the_guest_is_told():
    """RAM, devices, ports and interrupts in order; RAM is cut out of the PCI windows."""
    system = make_system()
    system.allocate_pci_mmio64(0x1000, owner="BAR")
    ioapic = Range.sized(0xFEC0_0000, 0x1000)
    system.physical.reserve(ioapic, "IOAPIC")
    system.allocate_pio(8, policy=ExactMatch(0x3F8), owner="COM1")
    system.gsis.allocate_msi()
    system.gsis.allocate_pin()
    told = system.platform_map()
    assert told.ram == (Range(0, 0xBFFF_FFFF), Range(0x1_0000_0000, 0x1_0FFF_FFFF))
    assert told.devices == (
        Allocation(ioapic, "IOAPIC"),
        Allocation(Range.sized(0x1_1000_0000, 0x1000), "BAR"),
    )
    assert told.platform_mmio == Range(0xC000_0000, 0xC000_FFFF)
    assert told.pci_mmio32 == (Range(0xC001_0000, 0xFEBF_FFFF),)
    assert told.pci_mmio64 == (Range(0x1_1000_0000, 0x2_FFFF_FFFF),)
    assert told.ports == (Allocation(Range(0x3F8, 0x3FF), "COM1"),)
    assert told.gsis == (5, 24)


def test_memory_in_the_middle_splits_a_window():
    """Memory that is plugged into a window leaves a piece on each side, or none at all."""
    system = make_system()
    system.physical.reserve(Range(0x2_0000_0000, 0x2_0FFF_FFFF), RAM)
    told = system.platform_map()
    assert told.pci_mmio64 == (
        Range(0x1_1000_0000, 0x1_FFFF_FFFF),
        Range(0x2_1000_0000, 0x2_FFFF_FFFF),
    )
    full = SystemAllocator(
        [(0, 1 << 32)],
        **WINDOWS,
    )
    assert full.platform_map().pci_mmio32 == ()


def test_system_comes_back_from_its_record():
    """Everything, windows and released interrupts included, and through JSON."""
    system = make_system()
    system.allocate_pci_mmio32(0x1000, policy=LastMatch, owner="BAR 0")
    system.allocate_pio(8, owner="port")
    system.gsis.free(system.gsis.allocate_pin())
    restored = SystemAllocator.restore(json.loads(json.dumps(system.save())))
    assert restored == system
    assert restored.platform_map() == system.platform_map()
    with pytest.raises(AlreadyReleased):
        restored.gsis.free(5)
    assert restored.allocate_pci_mmio32(0x1000, policy=LastMatch).end == 0xFEBF_EFFF
    assert restored != system
    assert restored != "system"


def test_system_is_readable():
    """`str()` shows memory, ports and interrupts."""
    system = make_system()
    system.allocate_pio(8, policy=ExactMatch(0x3F8), owner="COM1")
    system.gsis.allocate_pin()
    lines = str(system).splitlines()
    assert lines[:2] == ["memory", "0x0-0xbfffffff  RAM"]
    assert lines[-5:] == [
        "0x0-0x3f7  (free)",
        "0x3f8-0x3ff  COM1",
        "0x400-0xffff  (free)",
        "",
        "interrupts in use: 5",
    ]


def test_ports_end_at_64_kib():
    """I/O ports are a space of their own."""
    system = make_system()
    com1 = system.allocate_pio(8, policy=ExactMatch(0x3F8), owner="COM1")
    assert com1 == Range(0x3F8, 0x3FF)
    with pytest.raises(OutOfRange, match="is not inside 0x0-0xffff"):
        system.allocate_pio(8, policy=ExactMatch(0xFFFC))
    system.free_pio(com1)
    assert system.pio.available == 0x10000
    assert "SystemAllocator" in repr(system)
    assert repr(IdAllocator(0, 1)) == "<IdAllocator 0-1: 0 in use>"
