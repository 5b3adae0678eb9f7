"""The flat PCI bus: configuration accesses, addresses at power-on, memory that the guest moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from virtio_devices import ConfigurationSpace, PciIdentity
from vm_allocator import Range, SystemAllocator
from vmm_reference.bus import Bus
from vmm_reference.errors import HostError, UsageError
from vmm_reference.pci import PciBus
from vmm_reference.pci.access import ConfigurationPorts, Ecam
from vmm_reference.pci.host_bridge import HostBridge

GIB = 1 << 30
ECAM, IN_ECAM_SLOT = 0xFEB0_0000, 1 << 15
WINDOW32 = Range(0xC000_0000, ECAM - 1)
WINDOW64 = Range(4 * GIB, 68 * GIB - 1)
MEMORY = 2
COMMAND, BAR0 = 0x04, 0x10


class Function:
    """A function with 64-bit BARs whose memory reads as the BAR's index; notes where it is."""

    def __init__(self, *sizes, pin=1):
        self.space = ConfigurationSpace(PciIdentity(0x1234, 0x5678, 0xFF0000), interrupt_pin=pin)
        for number, size in enumerate(sizes):
            self.space.add_memory_bar(2 * number, size)
        self.read_config = self.space.read
        self.write_config = self.space.write
        self.memory_ranges = self.space.memory_ranges
        self.places = {}

    def bar(self, index):
        return Memory(index)

    def placed(self, index, base):
        self.places[index] = base


class Memory:
    def __init__(self, value):
        self.value = value

    def read(self, _offset, data):
        data[:] = bytes([self.value]) * len(data)

    def write(self, _offset, _data):
        pass


class Narrow(Function):
    """A function with one 32-bit BAR of 64 KiB, by hand."""

    def __init__(self):
        super().__init__()
        self.bytes = bytearray(256)
        self.read_config = self._read
        self.write_config = self._write
        self.memory_ranges = self._ranges

    def _read(self, offset, data):
        data[:] = self.bytes[offset : offset + len(data)]

    def _write(self, offset, data):
        if offset == BAR0:
            value = int.from_bytes(data, "little") & 0xFFFF_0000
            self.bytes[BAR0 : BAR0 + 4] = value.to_bytes(4, "little")
        elif offset == COMMAND:
            self.bytes[COMMAND : COMMAND + 2] = data[:2]

    def _ranges(self):
        base = int.from_bytes(self.bytes[BAR0 : BAR0 + 4], "little")
        return {0: (base, 0x1_0000)} if self.bytes[COMMAND] & MEMORY else {}


class Board:
    """A port bus and a memory bus with a PCI bus on them, and a guest's accesses."""

    def __init__(self):
        self.pio, self.mmio = Bus("ports", 1 << 16), Bus("memory")
        self.allocator = SystemAllocator(
            [(0, 3 * GIB)],
            platform_mmio=Range(0xFED0_0000, 0xFEDF_FFFF),
            pci_mmio32=WINDOW32,
            pci_mmio64=WINDOW64,
        )
        self.pci = PciBus(self.mmio, self.allocator, 16)
        self.pio.insert(0xCF8, 8, ConfigurationPorts(self.pci))
        self.mmio.insert(ECAM, 1 << 20, Ecam(self.pci))

    def port_in(self, port, size):
        data = bytearray(size)
        self.pio.read(port, memoryview(data))
        return int.from_bytes(data, "little")

    def port_out(self, port, value, size):
        self.pio.write(port, memoryview(bytearray(value.to_bytes(size, "little"))))

    def load(self, address, size):
        data = bytearray(size)
        self.mmio.read(address, memoryview(data))
        return int.from_bytes(data, "little")

    def store(self, address, value, size):
        self.mmio.write(address, memoryview(bytearray(value.to_bytes(size, "little"))))

    def config(self, slot, offset, size):
        return self.load(ECAM + slot * IN_ECAM_SLOT + offset, size)

    def set_config(self, slot, offset, value, size):
        self.store(ECAM + slot * IN_ECAM_SLOT + offset, value, size)

    def move(self, slot, base, bar=0):
        """As a kernel does: memory off, the new address, memory on."""
        self.set_config(slot, COMMAND, 0, 2)
        self.set_config(slot, BAR0 + 4 * bar, base, 8)
        self.set_config(slot, COMMAND, MEMORY, 2)

    def pci_ranges(self):
        return [(at.base, at.size) for at in self.mmio if at.base != ECAM]


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def filled(board):
    """A host bridge and two functions of 64 KiB and 16 bytes."""
    board.pci.attach(0, HostBridge())
    board.functions = {1: Function(0x1_0000), 2: Function(16)}
    for slot, function in board.functions.items():
        board.pci.attach(slot, function)
    return board


# Configuration mechanism #1


def select(board, slot, offset, *, bus=0, number=0, enable=1):
    address = enable << 31 | bus << 16 | slot << 11 | number << 8 | offset
    board.port_out(0xCF8, address, 4)


def test_ports_reach_a_function(filled):
    """Address, then data: whole, in words, in bytes (PCI §3.2.2.3.2)."""
    select(filled, 1, 0)
    assert filled.port_in(0xCFC, 4) == 0x5678_1234
    assert [filled.port_in(0xCFC + index, 2) for index in (0, 2)] == [0x1234, 0x5678]
    assert [filled.port_in(0xCFC + index, 1) for index in range(4)] == [0x34, 0x12, 0x78, 0x56]
    select(filled, 1, 0x3C)
    filled.port_out(0xCFC, 0x55, 1)
    assert filled.port_in(0xCFC, 2) == 0x0155


def test_the_address_register_reads_back(filled):
    """Reserved bits and the low two read as zero."""
    filled.port_out(0xCF8, 0xFFFF_FFFF, 4)
    assert filled.port_in(0xCF8, 4) == 0x80FF_FFFC


@pytest.mark.parametrize(("port", "size"), [(0xCF8, 1), (0xCF8, 2), (0xCF9, 1), (0xCFB, 1)])
def test_only_double_words_reach_the_address(filled, port, size):
    """Anything else there is somebody else's access: a reset control register, for example."""
    select(filled, 1, 0)
    filled.port_out(port, 0, size)
    assert filled.port_in(port, size) == (1 << 8 * size) - 1
    assert filled.port_in(0xCFC, 2) == 0x1234


@pytest.mark.parametrize(
    "wrong", [{"enable": 0}, {"bus": 1}, {"number": 1}, {"bus": 255, "number": 7}]
)
def test_nobody_answers_elsewhere(filled, wrong):
    """Without the enable bit, on other buses, for other functions: ones, and nothing is written."""
    select(filled, 1, 0x3C, **wrong)
    filled.port_out(0xCFC, 0x55, 1)
    assert filled.port_in(0xCFC, 4) == 0xFFFF_FFFF
    select(filled, 1, 0x3C)
    assert filled.port_in(0xCFC, 1) == 17


def test_an_empty_slot_reads_ones(filled):
    """By ports and by memory: how a guest knows that nobody is there."""
    select(filled, 3, 0)
    assert filled.port_in(0xCFC, 4) == 0xFFFF_FFFF
    assert filled.config(3, 0, 4) == 0xFFFF_FFFF
    filled.set_config(3, 0, 0, 4)


# ECAM


def test_memory_and_ports_show_the_same(filled):
    """All bytes of all slots (PCI Express Base 5.0 §7.2.2)."""
    for slot in range(4):
        for offset in range(0, 256, 4):
            select(filled, slot, offset)
            assert filled.config(slot, offset, 4) == filled.port_in(0xCFC, 4)


def test_memory_reaches_the_extended_space(filled):
    """Zeros: no function has extended capabilities."""
    assert filled.config(1, 0x100, 4) == 0
    assert filled.config(1, 0xFFC, 4) == 0


def test_an_access_stays_in_its_function(filled):
    """One that would reach into the next function's 4 KiB has no effect."""
    assert filled.load(ECAM + IN_ECAM_SLOT + 0xFFE, 4) == 0xFFFF_FFFF
    filled.store(ECAM + IN_ECAM_SLOT - 2, 0, 4)
    assert filled.config(1, 0, 2) == 0x1234


def test_the_host_bridge_is_a_host_bridge(filled):
    """Class 06 00, without memory, without pin."""
    assert filled.config(0, 9, 3) == 0x060000
    assert filled.config(0, BAR0, 8) == 0
    assert filled.config(0, 0x3D, 1) == 0


# Power-on


def test_functions_are_set_up_at_power_on(filled):
    """Memory enabled at an aligned place of its own, in pages of its own; a line for the pin."""
    first, second = (filled.functions[slot].places[0] for slot in (1, 2))
    assert (first, second) == (4 * GIB, 4 * GIB + 0x1_0000)
    for slot, line in ((1, 17), (2, 18)):
        assert filled.config(slot, COMMAND, 2) == MEMORY
        assert filled.config(slot, 0x3C, 2) == 0x0100 | line
    assert filled.load(first + 8, 4) == 0


def test_several_bars(board):
    """Each 64-bit BAR has its place; the guest reads what is behind it."""
    function = Function(0x4000, 0x1000, 0x10_0000)
    board.pci.attach(5, function)
    assert sorted(function.places) == [0, 2, 4]
    assert all(board.load(base, 1) == index for index, base in function.places.items())
    assert function.places[4] % 0x10_0000 == 0


def test_a_narrow_bar_is_placed_below_4_gib(board):
    """A 32-bit BAR cannot hold more."""
    narrow = Narrow()
    board.pci.attach(1, narrow)
    assert WINDOW32.contains(Range.sized(narrow.places[0], 0x1_0000))


def test_a_function_that_does_not_fit_is_refused(board):
    """More memory than the window has; nothing stays taken."""
    before = board.allocator.physical.used()
    with pytest.raises(HostError, match="a PCI device does not fit"):
        board.pci.attach(1, Function(32 * GIB, 64 * GIB))
    assert board.allocator.physical.used() == before
    assert board.pci.slots() == ()


def test_slots_are_given_once(board):
    """32 of them, the lowest free one first."""
    for expected in range(32):
        slot = board.pci.free_slot()
        assert slot == expected
        board.pci.attach(slot, Function(0x1000))
    with pytest.raises(UsageError, match="room for 31 devices beside its host bridge"):
        board.pci.free_slot()
    with pytest.raises(ValueError, match="slot 3 is not free"):
        board.pci.attach(3, Function())
    board.pci.detach(7)
    assert board.pci.free_slot() == 7
    with pytest.raises(ValueError, match="slot 32"):
        board.pci.attach(32, Function())


def test_pins_of_neighbours_begin_with_different_lines(board):
    """Four lines, one after another; a slot's four pins have all four."""
    assert [board.pci.gsi(slot, 1) for slot in range(5)] == [16, 17, 18, 19, 16]
    assert [board.pci.gsi(3, pin) for pin in (1, 2, 3, 4)] == [19, 16, 17, 18]


# Moving


def test_memory_follows_its_bar(filled):
    """Nothing answers at the old place, the function at the new one, and it is told."""
    old = filled.functions[1].places[0]
    filled.move(1, 0xD000_0000)
    assert filled.functions[1].places[0] == 0xD000_0000
    assert filled.load(old, 4) == 0xFFFF_FFFF
    assert filled.load(0xD000_0000, 4) == 0


def test_disabled_memory_answers_nowhere(filled):
    """Memory Space in the command register (PCI §6.2.2)."""
    base = filled.functions[1].places[0]
    filled.set_config(1, COMMAND, 0, 2)
    assert filled.functions[1].places[0] is None
    assert filled.load(base, 4) == 0xFFFF_FFFF


def test_sizing_with_memory_enabled_does_no_harm(filled):
    """For a moment the BAR is all ones, which is in no window."""
    base = filled.functions[1].places[0]
    filled.set_config(1, BAR0, 2**64 - 1, 8)
    assert filled.functions[1].places[0] is None
    assert filled.config(1, BAR0, 8) == 2**64 - 0x1_0000 + 4
    filled.set_config(1, BAR0, base, 8)
    assert filled.functions[1].places[0] == base


@pytest.mark.parametrize(
    "base",
    [0, 0x1_0000, 0xBFFF_0000, ECAM, ECAM - 0x1_0000 + (1 << 20), 0xFEC0_0000, 0xFEE0_0000,
     68 * GIB, 2**64 - 0x1_0000],
)  # fmt: skip
def test_what_is_no_window_is_never_covered(filled, base):
    """RAM, configuration spaces, interrupt controllers, or beyond: the memory answers nowhere."""
    filled.move(1, base)
    assert filled.functions[1].places[0] is None
    assert filled.config(1, 0, 2) == 0x1234
    filled.move(1, 0xD000_0000)
    assert filled.functions[1].places[0] == 0xD000_0000


def test_the_first_keeps_its_place(filled):
    """A BAR over another one answers nowhere until the other has gone."""
    taken = filled.functions[1].places[0]
    filled.move(2, taken + 0x8000)
    assert filled.functions[2].places[0] is None
    assert filled.functions[1].places[0] == taken
    filled.move(1, 0xD000_0000)
    assert filled.functions[2].places[0] == taken + 0x8000


def test_a_device_that_is_no_function_keeps_its_place(filled):
    """Whoever else is on the memory bus is an obstacle, too."""
    filled.mmio.insert(0xD000_8000, 16, Memory(7))
    filled.move(1, 0xD000_0000)
    assert filled.functions[1].places[0] is None
    assert filled.load(0xD000_8000, 1) == 7


def test_a_detached_function_leaves_nothing(filled):
    """Its slot is empty, its memory and its addresses are free."""
    base = filled.functions[1].places[0]
    assert filled.pci.detach(1) is filled.functions[1]
    assert filled.functions[1].places[0] is None
    assert filled.config(1, 0, 2) == 0xFFFF
    assert filled.allocator.physical.find(base) is None
    filled.pci.attach(1, Function(0x1_0000))


# Against a model

SIZES = {1: 0x1_0000, 2: 0x1000, 3: 0x20_0000}
bases = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0xC000_0000, 0xC040_0000),
    st.integers(WINDOW64.start, WINDOW64.start + 0x40_0000),
    st.sampled_from([ECAM - 0x1000, ECAM, WINDOW64.end & ~0xFFF, WINDOW64.end + 1]),
)
slots = st.sampled_from(sorted(SIZES))


class Moves(RuleBasedStateMachine):
    """Any order of moves, commands, attachments: what is on the bus is what may be there."""

    @initialize()
    def begin(self):
        self.board = Board()
        self.functions = {}

    @precondition(lambda self: len(self.functions) < len(SIZES))
    @rule()
    def attach(self):
        slot = min(SIZES.keys() - self.functions.keys())
        self.functions[slot] = Function(SIZES[slot])
        self.board.pci.attach(slot, self.functions[slot])

    @precondition(lambda self: self.functions)
    @rule(data=st.data())
    def detach(self, data):
        slot = data.draw(st.sampled_from(sorted(self.functions)))
        self.board.pci.detach(slot)
        assert self.functions.pop(slot).places == {0: None}

    @rule(slot=slots, base=bases, width=st.sampled_from([1, 2, 4, 8]), part=st.integers(0, 7))
    def write_bar(self, slot, base, width, part):
        part -= part % width
        value = base >> 8 * part & ((1 << 8 * width) - 1)
        self.board.set_config(slot, BAR0 + part, value, width)

    @rule(slot=slots, base=bases)
    def move(self, slot, base):
        self.board.move(slot, base)

    @rule(slot=slots, enabled=st.booleans())
    def write_command(self, slot, enabled):
        self.board.set_config(slot, COMMAND, MEMORY if enabled else 0, 2)

    @invariant()
    def bus_is_right(self):
        if not hasattr(self, "board"):
            return
        placed = {}
        for slot, function in self.functions.items():
            base = function.places.get(0)
            if base is not None:
                assert function.memory_ranges()[0] == (base, SIZES[slot])
                placed[slot] = Range.sized(base, SIZES[slot])
        expected = sorted((place.start, place.size) for place in placed.values())
        assert self.board.pci_ranges() == expected
        held = [used.range for used in self.board.allocator.physical.used()]
        assert sorted((r.start, r.size) for r in held if r.start >= 0xC000_0000) == expected
        for place in placed.values():
            assert WINDOW32.contains(place) or WINDOW64.contains(place)
        for slot, function in self.functions.items():
            if slot not in placed and (wanted := function.memory_ranges().get(0)):
                place = Range.sized(*wanted)
                possible = WINDOW32.contains(place) or WINDOW64.contains(place)
                assert not possible or any(place.overlaps(other) for other in placed.values())


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


accesses = st.lists(
    st.tuples(
        st.sampled_from(["read", "write"]),
        st.sampled_from(["pio", "mmio"]),
        st.one_of(st.integers(0, 0x10), st.integers(0, 0xFFFF), st.integers(0x8000, 0x8100)),
        st.sampled_from([0, 1, 2, 3, 4, 8]),
        st.one_of(st.integers(0, 2**64 - 1), st.integers(0x8000_0000, 0x8000_FFFF)),
    ),
    max_size=30,
)


@given(accesses)
def test_random_accesses_do_no_harm(sequence):
    """Ports and memory, any width anywhere: no exception, and the functions stay what they are."""
    board = Board()
    board.pci.attach(0, HostBridge())
    board.pci.attach(1, Function(0x1_0000))
    for kind, bus, offset, width, value in sequence:
        data = bytearray((value & ((1 << 8 * width) - 1)).to_bytes(width, "little"))
        address = 0xCF8 + offset % 16 if bus == "pio" else ECAM + offset
        getattr(getattr(board, bus), kind)(address, memoryview(data))
        assert len(data) == width
    assert board.config(0, 0, 4) == 0x0D57_8086
    assert board.config(1, 0, 4) == 0x5678_1234
