"""The local APIC timer (1 GHz) and the 8254 (1,193,182 Hz)."""

import pytest

LVT_TIMER, INITIAL, CURRENT, DIVIDE = 0x320, 0x380, 0x390, 0x3E0
PERIODIC, MASKED = 0x20000, 0x10000
HZ = 1_193_182


def start_timer(chip, lvt, count, divide=0xB):
    chip.set_lapic(DIVIDE, divide)
    chip.set_lapic(LVT_TIMER, lvt)
    chip.set_lapic(INITIAL, count)


def test_one_shot_fires_once(chip):
    """A one-shot timer raises its vector when the count has run out, and stops."""
    start_timer(chip, 0xEC, 1000)
    assert chip.deadline == 1000
    chip.advance(999)
    assert chip.lapic(CURRENT) == 1
    assert not chip.pending()
    chip.advance(1)
    assert chip.lapic(CURRENT) == 0
    assert chip.drain() == [0xEC]
    assert chip.deadline is None


@pytest.mark.parametrize(
    ("code", "divider"),
    [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xA, 128), (0xB, 1)],
)
def test_divide_configuration(chip, code, divider):
    """The eight divide codes of SDM vol. 3 figure 11-10."""
    start_timer(chip, 0xEC, 1000, divide=code)
    assert chip.deadline == 1000 * divider


def test_divide_change_keeps_the_count(chip):
    """Changing the divider of a running timer goes on from the current count."""
    start_timer(chip, 0xEC, 1000)
    chip.advance(400)
    chip.set_lapic(DIVIDE, 0)
    assert chip.lapic(CURRENT) == 600
    assert chip.deadline == 1200


def test_initial_count_zero_stops(chip):
    """Writing 0 to the initial count stops the timer."""
    start_timer(chip, 0xEC | PERIODIC, 1_000_000)
    chip.set_lapic(INITIAL, 0)
    assert chip.deadline is None
    assert chip.lapic(CURRENT) == 0


def test_periodic_fires_each_period(chip):
    """A periodic timer reloads on expiry and keeps its phase however late it is noticed."""
    start_timer(chip, 0xEC | PERIODIC, 1_000_000)
    chip.advance(1_000_700)
    assert chip.drain() == [0xEC]
    assert chip.deadline == 999_300


def test_long_pause_costs_one_interrupt(chip):
    """Periods missed in a pause are skipped: one interrupt, then the next at its due time."""
    start_timer(chip, 0xEC | PERIODIC, 1_000_000)
    chip.advance(3_600_000_000_500)
    assert chip.drain() == [0xEC]
    assert chip.deadline == 999_500
    chip.advance(0)
    assert not chip.pending()


def test_short_periods_are_stretched(chip):
    """A period below 200 us lasts 200 us, as in KVM, so that a guest cannot flood the VMM."""
    start_timer(chip, 0xEC | PERIODIC, 1)
    assert chip.deadline == 200_000


def test_masked_timer_runs_silently(chip):
    """A masked timer counts, asks for no wake-up, and what expired stays silent when unmasked."""
    start_timer(chip, 0xEC | MASKED, 1000)
    assert chip.deadline is None
    chip.now += 400
    assert chip.lapic(CURRENT) == 600
    chip.now += 5000
    chip.set_lapic(LVT_TIMER, 0xEC)
    assert not chip.pending()
    assert chip.deadline is None


def test_tsc_deadline_mode_is_reserved(chip):
    """Timer mode bit 18 does not stick: there is no TSC-deadline mode."""
    chip.set_lapic(LVT_TIMER, 0x400EC)
    assert chip.lapic(LVT_TIMER) == 0xEC


def program(chip, channel, mode, count, access=3):
    chip.outb(0x43, channel << 6 | access << 4 | mode << 1)
    if access & 1:
        chip.outb(0x40 + channel, count & 0xFF)
    if access & 2:
        chip.outb(0x40 + channel, count >> 8)


def read_word(chip, channel):
    return chip.inb(0x40 + channel) | chip.inb(0x40 + channel) << 8


def ticks(number):
    """Nanoseconds after which `number` ticks have passed."""
    return -(-number * 10**9 // HZ)


@pytest.fixture
def pic_chip(make_chip):
    """A PIC-only guest with a PIT."""
    chip = make_chip(pit=True)
    chip.start_pic()
    return chip


@pytest.mark.parametrize("mode", [2, 3, 6, 7])
def test_periodic_modes_raise_irq0(pic_chip, mode):
    """Modes 2 and 3 pulse GSI 0 every count, without drift; 6 and 7 are other names for them."""
    program(pic_chip, 0, mode, 11932)
    for tick in range(1, 4):
        assert pic_chip.deadline + pic_chip.now == 10**9 + ticks(11932 * tick)
        pic_chip.advance(pic_chip.deadline)
        assert pic_chip.acknowledge() == 0x20
        pic_chip.outb(0x20, 0x20)
        assert not pic_chip.pending()


@pytest.mark.parametrize(
    ("mode", "count", "after"), [(0, 5000, 5000), (4, 5000, 5001), (0, 0, 65536)]
)
def test_one_shot_modes_raise_irq0_once(pic_chip, mode, count, after):
    """Modes 0 and 4 raise GSI 0 once; count 0 is 65536; mode 4 strobes for one clock first."""
    program(pic_chip, 0, mode, count)
    assert pic_chip.deadline == ticks(after)
    pic_chip.advance(ticks(after))
    assert pic_chip.acknowledge() == 0x20
    assert pic_chip.deadline is None


@pytest.mark.parametrize("mode", [1, 5])
def test_triggered_modes_never_start_on_channel_0(pic_chip, mode):
    """Modes 1 and 5 wait for a gate edge, which channel 0's tied gate never has."""
    program(pic_chip, 0, mode, 5000)
    assert pic_chip.deadline is None


def test_missed_ticks_are_one(pic_chip):
    """Ticks that fell due during a pause are one interrupt."""
    program(pic_chip, 0, 2, 11932)
    pic_chip.advance(5 * 10**9)
    assert pic_chip.acknowledge() == 0x20
    pic_chip.outb(0x20, 0x20)
    assert not pic_chip.pending()
    assert 0 < pic_chip.deadline <= ticks(11932)


def test_short_pit_periods_are_stretched(pic_chip):
    """Ticks come no closer than 200 us, at multiples of the period."""
    program(pic_chip, 0, 2, 100)
    assert pic_chip.deadline == ticks(300)


def test_control_word_stops_the_channel(pic_chip):
    """A control word stops the channel until a whole count has been written."""
    program(pic_chip, 0, 2, 11932)
    pic_chip.outb(0x43, 0x34)
    assert pic_chip.deadline is None
    pic_chip.outb(0x40, 0x00)
    assert pic_chip.deadline is None
    pic_chip.outb(0x40, 0x10)
    assert pic_chip.deadline == ticks(0x1000)


def test_half_a_count_stops_mode_0(pic_chip):
    """In mode 0 the first byte of a new count stops the old one."""
    program(pic_chip, 0, 0, 5000)
    pic_chip.outb(0x40, 0x00)
    assert pic_chip.deadline is None


@pytest.mark.parametrize(("mode", "expected"), [(0, 900), (2, 900), (3, 800), (4, 900)])
def test_count_runs_down(chip, mode, expected):
    """The count falls by one each tick, by two in mode 3."""
    program(chip, 0, mode, 1000)
    chip.now += ticks(100)
    assert read_word(chip, 0) == expected


@pytest.mark.parametrize(
    ("mode", "expected"), [(0, 0x10000 - 100), (2, 900), (3, 800), (4, 0x10000 - 100)]
)
def test_count_after_the_end(chip, mode, expected):
    """After its end the count wraps in modes 0 and 4 and reloads in modes 2 and 3."""
    program(chip, 0, mode, 1000)
    chip.now += ticks(1100)
    assert read_word(chip, 0) == expected


def test_latched_count_stands_still(chip):
    """A latched count is read whole while the channel runs on; a second latch changes nothing."""
    program(chip, 0, 2, 10000)
    chip.now += ticks(100)
    chip.outb(0x43, 0x00)
    chip.now += ticks(100)
    chip.outb(0x43, 0x00)
    low = chip.inb(0x40)
    chip.now += ticks(100)
    assert low | chip.inb(0x40) << 8 == 9900
    assert read_word(chip, 0) == 10000 - 300


@pytest.mark.parametrize(("access", "first", "second"), [(1, 0x34, 0x34), (2, 0x12, 0x12)])
def test_single_byte_access(chip, access, first, second):
    """With LSB-only or MSB-only access each read gives that byte of the count."""
    chip.outb(0x43, access << 4 | 0 << 1)
    chip.outb(0x40, 0x12 if access == 2 else 0x34)
    assert [chip.inb(0x40), chip.inb(0x40)] == [first, second]
    assert chip.deadline == ticks(0x1200 if access == 2 else 0x34)


def test_read_back_gives_status_then_count(chip):
    """Read-back latches status and count of several channels; the status is read first."""
    program(chip, 0, 2, 1000)
    chip.outb(0x43, 0xB8)
    chip.outb(0x43, 0xCA)
    assert chip.inb(0x40) == 0xB4
    assert read_word(chip, 0) == 1000
    assert chip.inb(0x42) == 0xF8
    chip.outb(0x43, 0xE8)
    assert chip.inb(0x42) == 0xF8


def test_control_port_reads_as_empty(chip):
    """The control port cannot be read."""
    assert chip.inb(0x43) == 0xFF


def test_gate_2_times_mode_0(chip):
    """Channel 2 in mode 0 counts while port 61 opens its gate, then sets OUT (calibration)."""
    chip.outb(0x61, 0x00)
    program(chip, 2, 0, 1000)
    chip.now += ticks(5000)
    assert chip.inb(0x61) & 0x21 == 0
    chip.outb(0x61, 0x01)
    chip.now += ticks(600)
    chip.outb(0x61, 0x00)
    chip.now += ticks(5000)
    chip.outb(0x61, 0x01)
    chip.now += ticks(399)
    assert chip.inb(0x61) & 0x21 == 0x01
    chip.now += ticks(2)
    assert chip.inb(0x61) & 0x21 == 0x21


def test_gate_2_triggers_mode_1(chip):
    """In mode 1 OUT falls at the gate's edge and rises when the count has run out."""
    program(chip, 2, 1, 1000)
    assert chip.inb(0x61) & 0x20
    chip.outb(0x61, 0x01)
    assert not chip.inb(0x61) & 0x20
    chip.now += ticks(1000)
    assert chip.inb(0x61) & 0x20
    chip.outb(0x61, 0x00)
    chip.outb(0x61, 0x01)
    assert not chip.inb(0x61) & 0x20


def test_gate_2_restarts_the_square_wave(chip):
    """In mode 3 OUT is high for the first half, and high while the gate is closed."""
    chip.outb(0x61, 0x01)
    program(chip, 2, 3, 1000)
    chip.now += ticks(499)
    assert chip.inb(0x61) & 0x20
    chip.now += ticks(2)
    assert not chip.inb(0x61) & 0x20
    chip.outb(0x61, 0x00)
    assert chip.inb(0x61) & 0x20
    chip.outb(0x61, 0x01)
    chip.now += ticks(501)
    assert not chip.inb(0x61) & 0x20


def test_port_61_keeps_speaker_and_toggles_refresh(chip):
    """Port 61 reads back gate and speaker, and its refresh bit changes with time."""
    chip.outb(0x61, 0xFF)
    first = chip.inb(0x61)
    chip.now += 15_085
    assert first & 0x03 == 0x03
    assert first ^ chip.inb(0x61) == 0x10


def test_without_a_pit_its_ports_are_free(make_chip):
    """Before the PIT is created nobody claims its ports."""
    chip = make_chip()
    assert chip.inb(0x40) is None
    assert chip.inb(0x61) is None
    assert chip.get_state("pit") < 0
