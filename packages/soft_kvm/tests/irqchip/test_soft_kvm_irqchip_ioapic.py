"""The I/O APIC's registers and its edge and level pins (82093AA data sheet)."""

import pytest

LEVEL, MASKED, REMOTE_IRR = 0x8000, 0x10000, 0x4000


def eoi(chip, cpu=0):
    chip.set_lapic(0xB0, 0, cpu=cpu)


def test_registers_at_reset(chip):
    """Id 0, version 0x11 with 24 entries, every entry masked."""
    assert [chip.ioapic(index) for index in (0, 1, 2)] == [0, 0x00170011, 0]
    assert [chip.entry(pin) for pin in range(24)] == [MASKED] * 24


def test_registers_keep_their_defined_bits(chip):
    """The id and an entry's defined bits stick; status, remote IRR and version do not."""
    for index in (0, 1, 2, 0x10, 0x11):
        chip.set_ioapic(index, 0xFFFFFFFF)
    assert chip.ioapic(0) == 0x0F000000
    assert chip.ioapic(1) == 0x00170011
    assert chip.entry(0) == 0xFF00_0000_0001_AFFF


@pytest.mark.parametrize("index", [3, 0x0F, 0x40, 0xFF])
def test_missing_registers_read_zero(chip, index):
    """An index without a register reads 0 and ignores writes."""
    chip.set_ioapic(index, 0xFFFFFFFF)
    assert chip.ioapic(index) == 0


def test_window_offsets(chip):
    """Only offsets 0 and 0x10 exist (no EOI register in version 0x11), in any access size."""
    chip.write(0xFEC00000, 0xFFFFFF01)
    assert chip.read(0xFEC00000) == 0x01
    assert chip.read(0xFEC00010, size=1) == 0x11
    assert chip.read(0xFEC00010, size=8) == 0x00170011
    for offset in (0x04, 0x11, 0x20, 0x40, 0xFF):
        chip.write(0xFEC00000 + offset, 0x12345678)
        assert chip.read(0xFEC00000 + offset) == 0
    assert chip.read(0xFEC00100) is None


@pytest.mark.parametrize(
    ("gsi", "pin"), [(0, 0), (1, 1), (2, 2), (4, 4), (15, 15), (16, 16), (23, 23)]
)
def test_gsi_drives_its_pin(chip, gsi, pin):
    """KVM's default routing: a GSI is the pin of its number."""
    chip.set_entry(pin, 0x60)
    chip.pulse(gsi)
    assert chip.drain() == [0x60]


@pytest.mark.parametrize("gsi", [24, 2**32 - 1])
def test_other_gsis_go_nowhere(chip, gsi):
    """Numbers without a pin do nothing."""
    chip.set_entry(2, 0x60)
    chip.pulse(gsi)
    assert not chip.pending()


def test_single_pins(chip):
    """A route may drive any one pin of any controller; pins that do not exist are refused."""
    chip.set_entry(0, 0x60)
    set_pin = chip.lib.sk_irqchip_set_pin
    assert set_pin(chip.pointer, 2, 0, True)
    assert chip.drain() == [0x60]
    refused = [(2, 24), (0, 8), (1, 8), (3, 0)]
    assert not any(set_pin(chip.pointer, *pin, True) for pin in refused)


def test_edge_comes_once_per_rise(chip):
    """An edge pin held high interrupts once."""
    chip.set_entry(4, 0x60)
    chip.gsi(4, True)
    chip.gsi(4, True)
    assert chip.drain() == [0x60]
    chip.gsi(4, False)
    chip.gsi(4, True)
    assert chip.drain() == [0x60]


def test_edge_during_service_is_kept(chip):
    """An edge that comes while the previous one is served is delivered after the EOI."""
    chip.set_entry(4, 0x60)
    chip.pulse(4)
    chip.acknowledge()
    chip.pulse(4)
    assert not chip.pending()
    eoi(chip)
    assert chip.drain() == [0x60]


def test_masked_edge_is_lost(chip):
    """An edge on a masked pin is neither delivered nor held."""
    chip.set_entry(4, 0x60 | MASKED)
    chip.gsi(4, True)
    chip.set_entry(4, 0x60)
    assert not chip.pending()


def test_level_comes_until_the_line_falls(chip):
    """A level interrupt sets remote IRR, comes once, and again after each EOI while it is high."""
    chip.set_entry(16, 0x60 | LEVEL)
    chip.gsi(16, True)
    assert chip.entry(16) & REMOTE_IRR
    assert chip.acknowledge() == 0x60
    chip.gsi(16, False)
    chip.gsi(16, True)
    assert not chip.pending()
    eoi(chip)
    assert chip.acknowledge() == 0x60
    chip.gsi(16, False)
    eoi(chip)
    assert not chip.pending()
    assert not chip.entry(16) & REMOTE_IRR
    assert chip.ended(2) == 1 << 16


def test_only_the_level_vector_is_broadcast(chip):
    """The EOI of an edge vector touches no entry; TMR tells the two apart."""
    chip.set_entry(16, 0x60 | LEVEL)
    chip.gsi(16, True)
    assert chip.lapic(0x180 + 0x10 * 3) == 1
    assert chip.acknowledge() == 0x60
    chip.msi(0x71)
    chip.acknowledge()
    eoi(chip)
    assert chip.entry(16) & REMOTE_IRR
    eoi(chip)
    assert chip.pending()


def test_two_pins_may_share_a_vector(chip):
    """One EOI ends both level pins of a shared vector, and both come again while high."""
    for pin in (16, 17):
        chip.set_entry(pin, 0x60 | LEVEL)
        chip.gsi(pin, True)
    assert chip.acknowledge() == 0x60
    chip.gsi(16, False)
    eoi(chip)
    assert not chip.entry(16) & REMOTE_IRR
    assert chip.entry(17) & REMOTE_IRR
    assert chip.pending()


def test_masked_level_comes_when_unmasked(chip):
    """A level pin that rose while masked interrupts when the mask goes, if it is still high."""
    chip.set_entry(16, 0x60 | LEVEL | MASKED)
    chip.gsi(16, True)
    chip.gsi(17, True)
    chip.set_entry(17, 0x61 | LEVEL | MASKED)
    chip.gsi(17, False)
    chip.set_entry(16, 0x60 | LEVEL)
    chip.set_entry(17, 0x61 | LEVEL)
    assert chip.acknowledge() == 0x60
    assert not chip.entry(17) & REMOTE_IRR


def test_edge_mode_clears_remote_irr(chip):
    """Turning an entry to edge forgets its remote IRR, so that it can interrupt again."""
    chip.set_entry(16, 0x60 | LEVEL)
    chip.gsi(16, True)
    chip.set_entry(16, 0x60 | MASKED)
    assert chip.entry(16) == 0x60 | MASKED
    chip.set_entry(16, 0x60 | LEVEL)
    assert chip.entry(16) & REMOTE_IRR


def test_level_waits_for_an_apic(make_chip):
    """A level interrupt that no APIC took is offered again when one is enabled or readdressed."""
    chip = make_chip(2)
    chip.set_entry(16, 0x60 | LEVEL | 0x800, destination=0x02)
    chip.gsi(16, True)
    assert not chip.entry(16) & REMOTE_IRR
    chip.enable_lapic(1)
    assert not chip.pending(1)
    chip.set_lapic(0xD0, 0x02 << 24, cpu=1)
    assert chip.acknowledge(1) == 0x60


def test_polarity_is_ignored(chip):
    """Lines are logical levels: an active-low entry interrupts on assertion too."""
    chip.set_entry(16, 0x60 | LEVEL | 0x2000)
    assert not chip.pending()
    chip.gsi(16, True)
    assert chip.pending()


def test_destinations(make_chip):
    """Physical, logical and lowest-priority destinations are those of the APIC bus."""
    chip = make_chip(3)
    for cpu in range(3):
        chip.enable_lapic(cpu)
        chip.set_lapic(0xD0, 1 << (24 + cpu), cpu=cpu)
    chip.set_lapic(0x350, 0x10000)
    for low, destination, reached in (
        (0x60, 1, [0, 1, 0]),
        (0x60, 0xFF, [1, 1, 1]),
        (0x860, 0x5, [1, 0, 1]),
    ):
        chip.set_entry(4, low, destination)
        chip.pulse(4)
        assert [len(chip.drain(cpu)) for cpu in range(3)] == reached
    chip.set_entry(4, 0x960, 0x7)
    chip.pulse(4)
    assert sum(len(chip.drain(cpu)) for cpu in range(3)) == 1


@pytest.mark.parametrize(("mode", "events"), [(4, 4), (5, 1), (6, 0), (2, 0), (7, 0), (3, 0)])
def test_other_delivery_modes(chip, mode, events):
    """NMI and INIT entries send that, as edges whatever the trigger bit; the rest sends nothing."""
    chip.set_entry(4, 0x60 | mode << 8 | LEVEL)
    chip.gsi(4, True)
    assert chip.events()[0] == events
    assert not chip.entry(4) & REMOTE_IRR
    assert not chip.pending()
