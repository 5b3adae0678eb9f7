"""CMOS memory and its clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.legacy.cmos import SHUTDOWN_STATUS, SIZE, Cmos

A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
CENTURY = 0x32
FIELDS = {"second": 0, "minute": 2, "hour": 4, "weekday": 6, "day": 7, "month": 8, "year": 9}
NS = 1_000_000_000
GIB = 1 << 30


class Clock:
    """A host whose two clocks only move when told."""

    def __init__(self, now):
        self.now = now
        self.elapsed = 0

    def wall(self):
        return int(self.now.timestamp()) * NS + self.now.microsecond * 1000

    def monotonic(self):
        return self.elapsed

    def advance(self, **delta):
        step = timedelta(**delta)
        self.now += step
        self.elapsed += step // timedelta(microseconds=1) * 1000


@pytest.fixture
def clock():
    return Clock(datetime(2031, 12, 5, 21, 34, 56, tzinfo=UTC))  # a Friday


@pytest.fixture
def cmos(clock):
    return Cmos(256 << 20, clock=clock.wall, monotonic=clock.monotonic)


def load(cmos, index):
    data = memoryview(bytearray(1))
    cmos.write(0, memoryview(bytes((index,))))
    cmos.read(1, data)
    return data[0]


def store(cmos, index, value):
    cmos.write(0, memoryview(bytes((index,))))
    cmos.write(1, memoryview(bytes((value,))))


def clock_registers(cmos):
    return [load(cmos, index) for index in (CENTURY, 9, 8, 7, 4, 2, 0)]


def test_time_is_the_hosts_in_bcd(cmos):
    """By default the clock shows UTC in BCD and 24-hour form, as Linux expects of a PC."""
    assert clock_registers(cmos) == [0x20, 0x31, 0x12, 0x05, 0x21, 0x34, 0x56]
    assert load(cmos, FIELDS["weekday"]) == 6
    assert load(cmos, B) == 0x02


def test_time_in_binary(cmos):
    """Status B's bit 2 asks for binary."""
    store(cmos, B, 0x06)
    assert clock_registers(cmos) == [20, 31, 12, 5, 21, 34, 56]


@pytest.mark.parametrize(
    ("hour", "shown"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (23, 0x91)]
)
def test_twelve_hour_form(clock, cmos, hour, shown):
    """Without status B's bit 1 hours run from 1 to 12, and bit 7 means afternoon."""
    store(cmos, B, 0)
    clock.now = clock.now.replace(hour=hour)
    assert load(cmos, FIELDS["hour"]) == shown


def test_status_says_ready(cmos):
    """No update is in progress, the battery is good, no interrupt is pending."""
    assert load(cmos, A) & 0x80 == 0
    assert load(cmos, C) == 0
    assert load(cmos, D) == 0x80


def test_status_a_holds_the_time_for_a_moment(clock, cmos):
    """Who reads status A may then read all registers, and gets one moment's."""
    clock.now = datetime(2031, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
    load(cmos, A)
    clock.advance(milliseconds=4)
    assert clock_registers(cmos) == [0x20, 0x31, 0x12, 0x31, 0x23, 0x59, 0x59]
    clock.advance(milliseconds=4)
    assert clock_registers(cmos) == [0x20, 0x32, 0x01, 0x01, 0x00, 0x00, 0x00]


def test_clock_ticks_without_status_a(clock, cmos):
    """Who polls the seconds sees them change."""
    before = load(cmos, 0)
    clock.advance(seconds=1)
    assert load(cmos, 0) == before + 1


def test_guest_sets_the_clock(clock, cmos):
    """With SET the registers stand still and can be written; clearing it sets the clock going."""
    store(cmos, B, 0x82)
    for index, value in zip(
        (CENTURY, 9, 8, 7, 4, 2, 0), (0x19, 0x99, 0x01, 0x02, 0x03, 0x04, 0x05), strict=True
    ):
        store(cmos, index, value)
    clock.advance(hours=1)
    assert load(cmos, 0) == 0x05
    store(cmos, B, 0x02)
    clock.advance(seconds=10)
    assert clock_registers(cmos) == [0x19, 0x99, 0x01, 0x02, 0x03, 0x04, 0x15]


def test_single_register_sets_the_running_clock(cmos):
    """Writing a register of the running clock changes that field."""
    store(cmos, FIELDS["minute"], 0x01)
    assert clock_registers(cmos) == [0x20, 0x31, 0x12, 0x05, 0x21, 0x01, 0x56]


def test_twelve_hour_time_can_be_set(cmos):
    """The afternoon bit is understood, too."""
    store(cmos, B, 0x00)
    store(cmos, FIELDS["hour"], 0x92)
    store(cmos, B, 0x02)
    assert load(cmos, FIELDS["hour"]) == 0x12


def test_impossible_date_is_ignored(cmos):
    """A date that does not exist does not move the clock."""
    store(cmos, FIELDS["month"], 0x13)
    store(cmos, FIELDS["day"], 0x32)
    assert clock_registers(cmos) == [0x20, 0x31, 0x12, 0x05, 0x21, 0x34, 0x56]


@pytest.mark.parametrize(
    ("below", "above", "extended_kib", "above_16m", "above_4g"),
    [
        (512 << 10, 0, 0, 0, 0),
        (16 << 20, 0, 15 << 10, 0, 0),
        (256 << 20, 0, 0xFFFF, 240 << 4, 0),
        (3 * GIB, 5 * GIB, 0xFFFF, (3 * GIB - (16 << 20)) >> 16, 5 * GIB >> 16),
        (3 * GIB, 1 << 44, 0xFFFF, (3 * GIB - (16 << 20)) >> 16, 0xFFFFFF),
    ],
)
def test_memory_sizes(below, above, extended_kib, above_16m, above_4g):
    """Firmware reads the memory's size in KiB and in 64 KiB, each capped at its register."""
    cmos = Cmos(below, above)

    def number(*indices):
        return sum(load(cmos, index) << 8 * i for i, index in enumerate(indices))

    assert number(0x15, 0x16) == 640
    assert number(0x17, 0x18) == number(0x30, 0x31) == extended_kib
    assert number(0x34, 0x35) == above_16m
    assert number(0x5B, 0x5C, 0x5D) == above_4g


def test_shutdown_status_is_memory(cmos):
    """Linux writes 0x0a here before it starts a processor, and reads nothing into the rest."""
    store(cmos, SHUTDOWN_STATUS, 0x0A)
    assert load(cmos, SHUTDOWN_STATUS) == 0x0A


def test_nmi_mask_is_not_part_of_the_index(cmos):
    """Bit 7 of the index port masks NMIs; the index is the rest."""
    store(cmos, 0x40, 0x77)
    assert load(cmos, 0x80 | 0x40) == 0x77


def test_index_port_reads_ones(cmos):
    """The index port is write-only, and wide reads find ones beyond a register."""
    data = memoryview(bytearray(2))
    cmos.read(0, data)
    assert bytes(data) == b"\xff\xff"


accesses = st.tuples(st.booleans(), st.integers(0, SIZE + 1), st.binary(max_size=5))
times = st.datetimes(datetime(1970, 1, 2), datetime(9998, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(times, st.lists(accesses, max_size=60))
def test_no_access_raises(now, operations):
    """Whatever a guest does, at whatever time, the clock survives."""
    clock = Clock(now)
    cmos = Cmos(GIB, clock=clock.wall, monotonic=clock.monotonic)
    for writes, offset, content in operations:
        clock.advance(milliseconds=3)
        if writes:
            cmos.write(offset, memoryview(content))
        else:
            cmos.read(offset, memoryview(bytearray(content)))


@given(times, times, st.integers(0, 7))
def test_set_time_is_read_back(host, wanted, mode):
    """In each of the formats, a time that the guest sets is the time that it reads."""
    clock = Clock(host)
    wanted = wanted.replace(microsecond=0)
    cmos = Cmos(GIB, clock=clock.wall, monotonic=clock.monotonic)
    source = Cmos(GIB, clock=Clock(wanted).wall, monotonic=clock.monotonic)
    status_b = mode & 6
    store(source, B, status_b)
    store(cmos, B, 0x80 | status_b)
    for index, value in zip((CENTURY, 9, 8, 7, 4, 2, 0), clock_registers(source), strict=True):
        store(cmos, index, value)
    store(cmos, B, status_b)
    assert clock_registers(cmos) == clock_registers(source)
