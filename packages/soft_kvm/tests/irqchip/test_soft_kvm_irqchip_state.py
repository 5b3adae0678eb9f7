"""The controllers' state in KVM's own records."""

import struct

import pytest

HZ = 1_193_182


def pit_channels(raw):
    """The three kvm_pit_channel_state records as tuples."""
    return [struct.unpack_from("<IH10Bq", raw, 24 * channel) for channel in range(3)]


def test_fresh_records_are_kvms(make_chip):
    """New controllers read as KVM's (compared with Linux 6.1 on an Intel host)."""
    chip = make_chip(pit=True)
    for chip_id, elcr_mask in ((0, 0xF8), (1, 0xDE)):
        assert chip.get_state("irqchip", chip_id=chip_id)[8:24] == bytes(15) + bytes([elcr_mask])
    ioapic = struct.unpack_from("<QIIII24Q", chip.get_state("irqchip", chip_id=2), 8)
    assert ioapic == (0xFEC00000, 0, 0, 0, 0, *[0x10000] * 24)
    assert [(c[0], c[9], c[11]) for c in pit_channels(chip.get_state("pit"))] == [
        (0x10000, 0xFF, 1),
        (0x10000, 0xFF, 1),
        (0x10000, 0xFF, 0),
    ]


def test_lapic_round_trip(make_chip):
    """A local APIC restored elsewhere has the same registers and the same work to do."""
    chip, other = make_chip(), make_chip()
    chip.enable_lapic()
    chip.set_lapic(0x80, 0x35)
    chip.set_lapic(0xD0, 0x01 << 24)
    for vector in (0x45, 0x63, 0x64):
        chip.msi(vector)
    chip.acknowledge()
    raw = chip.get_state("lapic")
    assert other.set_state("lapic", raw) == 0
    assert other.get_state("lapic") == raw
    other.set_lapic(0xB0, 0)
    assert other.acknowledge() == 0x63


def test_lapic_timer_goes_on(make_chip):
    """A restored timer expires when the rest of its count has passed on the new clock."""
    chip, other = make_chip(), make_chip()
    chip.enable_lapic()
    chip.set_lapic(0x3E0, 0xB)
    chip.set_lapic(0x320, 0x200EC)
    chip.set_lapic(0x380, 1_000_000)
    chip.now += 300_000
    other.now = 77
    other.set_state("lapic", chip.get_state("lapic"))
    assert other.deadline == 700_000
    other.advance(700_000)
    assert other.deadline == 1_000_000


def test_lapic_record_is_not_trusted(make_chip):
    """A record of all ones leaves only defined bits, and no vector below 16."""
    chip = make_chip()
    assert chip.set_state("lapic", b"\xff" * 1024) == 0
    assert chip.lapic(0x30) == 0x50014
    assert chip.lapic(0xF0) == 0x3FF
    assert chip.lapic(0x320) == 0x300FF
    assert chip.lapic(0x200) == 0xFFFF0000
    assert not chip.pending()


def test_pic_round_trip(make_chip):
    """Masks, requests, services and modes of both 8259s survive."""
    chip, other = make_chip(), make_chip()
    chip.start_pic(base=0x30)
    chip.outb(0x4D1, 0x02)
    chip.gsi(9, True)
    chip.pulse(4)
    chip.pulse(3)
    chip.acknowledge()
    records = [chip.get_state("irqchip", chip_id=chip_id) for chip_id in (0, 1)]
    for record in reversed(records):
        assert other.set_state("irqchip", record) == 0
    assert [other.get_state("irqchip", chip_id=chip_id) for chip_id in (0, 1)] == records
    assert [other.acknowledge(), chip.acknowledge()] == [-1, -1]
    other.outb(0xA0, 0x20)
    other.outb(0x20, 0x20)
    assert other.acknowledge() == 0x39


def test_ioapic_round_trip(make_chip):
    """Entries and asserted lines survive; a level line with remote IRR is not sent again."""
    chip, other = make_chip(), make_chip()
    for each in (chip, other):
        each.enable_lapic()
        each.set_lapic(0x350, 0x10000)
    chip.set_ioapic(0, 0x05000000)
    chip.set_entry(16, 0x8060)
    chip.set_entry(17, 0x0061)
    chip.gsi(16, True)
    chip.gsi(17, True)
    chip.gsi(18, True)
    record = chip.get_state("irqchip", chip_id=2)
    assert struct.unpack_from("<I", record, 8 + 16)[0] == 1 << 16 | 1 << 18
    assert other.set_state("irqchip", record) == 0
    assert other.get_state("irqchip", chip_id=2) == record
    assert not other.pending()


def test_level_line_comes_with_the_record(make_chip):
    """A line asserted in the record and not yet in service interrupts at once."""
    chip, other = make_chip(), make_chip()
    other.enable_lapic()
    chip.set_entry(16, 0x8060)
    chip.gsi(16, True)
    other.set_state("irqchip", chip.get_state("irqchip", chip_id=2))
    assert other.acknowledge() == 0x60


def test_unknown_chip_is_refused(make_chip):
    """There are three irqchips; another id is EINVAL."""
    chip = make_chip()
    assert chip.get_state("irqchip", chip_id=3) == -22
    assert chip.set_state("irqchip", (3).to_bytes(4, "little") + bytes(516)) == -22


def test_pit_round_trip(make_chip):
    """Channels keep mode, count, latches and gate; channel 0 starts its count anew, as in KVM."""
    chip, other = make_chip(pit=True), make_chip(pit=True)
    chip.outb(0x43, 0x34)
    chip.outb(0x40, 0x00, 0x10)
    chip.outb(0x61, 0x03)
    chip.outb(0x43, 0xB6)
    chip.outb(0x42, 0xE8, 0x03)
    chip.now += 10**9 * 100 // HZ + 1
    chip.outb(0x43, 0x80)
    other.now = chip.now
    assert other.set_state("pit", chip.get_state("pit")) == 0
    assert other.deadline == -(-0x1000 * 10**9 // HZ)
    assert other.inb(0x42) | other.inb(0x42) << 8 == 800
    assert other.inb(0x61) & 0x23 == chip.inb(0x61) & 0x23
    chip.inb(0x42), chip.inb(0x42)
    after = [pit_channels(each.get_state("pit")) for each in (chip, other)]
    assert after[0][2] == after[1][2]


@pytest.mark.parametrize("gate", [0, 1])
def test_stopped_channel_round_trip(make_chip, gate):
    """A count held by the gate, and one waiting for its trigger, stay what they are."""
    chip, other = make_chip(pit=True), make_chip(pit=True)
    chip.outb(0x61, gate)
    chip.outb(0x43, 0xB2 if gate else 0xB0)
    chip.outb(0x42, 0xE8, 0x03)
    other.set_state("pit", chip.get_state("pit"))
    for each in (chip, other):
        each.now += 10**9
    assert other.inb(0x61) == chip.inb(0x61)
    for each in (chip, other):
        each.outb(0x61, 0)
        each.outb(0x61, 1)
        each.now += 900 * 10**9 // HZ
    assert other.inb(0x61) & 0x20 == chip.inb(0x61) & 0x20 == 0
    for each in (chip, other):
        each.now += 200 * 10**9 // HZ
    assert other.inb(0x61) & 0x20 == chip.inb(0x61) & 0x20 == 0x20


def test_pit_record_is_not_trusted(make_chip):
    """A record of all ones is bounded: the channels are unprogrammed, the gate of 0 stays tied."""
    chip = make_chip(pit=True)
    assert chip.set_state("pit", b"\xff" * 112) == 0
    assert [(c[0], c[9], c[11]) for c in pit_channels(chip.get_state("pit"))] == [
        (0x10000, 0xFF, 1)
    ] * 3
    assert chip.deadline is None
