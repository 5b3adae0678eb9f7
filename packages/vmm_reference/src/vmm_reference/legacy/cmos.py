"""CMOS memory with its real-time clock, at ports 0x70 (index) and 0x71 (data).

The clock is a Motorola MC146818: it shows the host's UTC, in BCD or binary and 24- or 12-hour form
as status register B asks. It has no interrupts (our ACPI tables give it no line). If the guest sets
the clock, the difference to the host's is kept for this machine; the host's clock is never set.

"Update in progress" never reads as set. On the chip, reading it clear promises 244 µs in which the
registers do not change, so that all can be read; here such a read holds the time for 5 ms, because
each register costs the guest two exits.

Memory sizes are where the IBM AT and, for memory beyond 4 GiB, Bochs have them. The rest is plain
memory; 0x0f is the AT's shutdown status byte, which Linux sets before it starts another processor.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BASE: Final = 0x70
SIZE: Final = 2

SHUTDOWN_STATUS: Final = 0x0F
"""Index of the shutdown status byte."""

_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR = 0, 2, 4, 6, 7, 8, 9
_CENTURY = 0x32
_CLOCK = frozenset((_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, _CENTURY))
_STATUS_A, _STATUS_B, _STATUS_C, _STATUS_D = 0x0A, 0x0B, 0x0C, 0x0D

_A_UIP = 0x80
_A_DEFAULT = 0x26  # 32768 Hz oscillator, 1024 Hz periodic rate: what a PC's firmware sets
_B_SET, _B_BINARY, _B_24_HOUR = 0x80, 0x04, 0x02
_D_VALID = 0x80  # the battery is good
_PM = 0x80  # of the hours in 12-hour form

_HOLD_NS = 5_000_000
_NS_PER_US = 1_000
_KIB = 1 << 10
_64_KIB = 64 << 10
_BASE_MEMORY_KIB = 640


def _to_bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def _from_bcd(value: int) -> int:
    return (value >> 4) * 10 + (value & 0x0F)


class Cmos:
    """A PC's CMOS memory.

    Args:
        memory_below_4g: bytes of guest memory below 4 GiB.
        memory_above_4g: bytes of guest memory from 4 GiB on.
        clock: the time, in ns since 1970-01-01 UTC.
        monotonic: a clock (ns) that nobody sets, for the 5 ms above.
    """

    def __init__(
        self,
        memory_below_4g: int,
        memory_above_4g: int = 0,
        *,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._monotonic = monotonic
        self._index = 0
        self._memory = bytearray(128)
        self._memory[_STATUS_A] = _A_DEFAULT
        self._memory[_STATUS_B] = _B_24_HOUR
        self._offset = timedelta()  # guest's time minus host's
        self._held: datetime | None = None
        self._held_until = 0
        self._store_memory_sizes(memory_below_4g, memory_above_4g)

    def read(self, offset: int, data: memoryview) -> None:
        """Read the selected byte; the index port cannot be read."""
        data[:] = b"\xff" * len(data)
        if data and offset == 1:
            with self._lock:
                data[0] = self._load(self._index)

    def write(self, offset: int, data: memoryview) -> None:
        """Select a byte (bit 7, the PC's NMI mask, is ignored), or write the selected one."""
        if not data:
            return
        with self._lock:
            if offset == 0:
                self._index = data[0] & 0x7F
            elif offset == 1:
                self._store(self._index, data[0])

    def _store_memory_sizes(self, below_4g: int, above_4g: int) -> None:
        extended_kib = min(max(below_4g // _KIB - 1024, 0), 0xFFFF)
        above_16m = min(max(below_4g - (16 << 20), 0) // _64_KIB, 0xFFFF)
        above_4g = min(above_4g // _64_KIB, 0xFFFFFF)
        self._memory[0x15:0x17] = _BASE_MEMORY_KIB.to_bytes(2, "little")
        self._memory[0x17:0x19] = extended_kib.to_bytes(2, "little")
        self._memory[0x30:0x32] = extended_kib.to_bytes(2, "little")
        self._memory[0x34:0x36] = above_16m.to_bytes(2, "little")
        self._memory[0x5B:0x5E] = above_4g.to_bytes(3, "little")

    def _load(self, index: int) -> int:
        if index in _CLOCK:
            if self._memory[_STATUS_B] & _B_SET:
                return self._memory[index]  # the clock stands; what the guest writes is here
            return self._clock_register(index, self._now())
        if index == _STATUS_A:
            self._held = None
            self._held = self._now()
            self._held_until = self._monotonic() + _HOLD_NS
        if index == _STATUS_C:
            return 0
        if index == _STATUS_D:
            return _D_VALID
        return self._memory[index]

    def _store(self, index: int, value: int) -> None:
        if index in (_STATUS_C, _STATUS_D):
            return
        if index == _STATUS_A:
            value &= ~_A_UIP
        elif index == _STATUS_B:
            self._write_status_b(value)
        elif index in _CLOCK and not self._memory[_STATUS_B] & _B_SET:
            self._show_time()
            self._memory[index] = value
            self._set_time()
        self._memory[index] = value

    def _write_status_b(self, value: int) -> None:
        was_set = self._memory[_STATUS_B] & _B_SET
        if value & _B_SET and not was_set:
            self._show_time()
        elif was_set and not value & _B_SET:
            self._memory[_STATUS_B] = value
            self._set_time()

    def _now(self) -> datetime:
        """The guest's time."""
        if self._held is not None:
            if self._monotonic() < self._held_until:
                return self._held
            self._held = None
        try:
            return self._host_time() + self._offset
        except OverflowError:  # the guest sits at the end of the year 9999
            self._offset = timedelta()
            return self._host_time()

    def _host_time(self) -> datetime:
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return epoch + timedelta(microseconds=self._clock() // _NS_PER_US)

    def _show_time(self) -> None:
        """Put the guest's time into the registers."""
        now = self._now()
        for index in _CLOCK:
            self._memory[index] = self._clock_register(index, now)

    def _set_time(self) -> None:
        """Take the guest's time from the registers; ignored if they hold no date.

        The weekday follows from the date.
        """
        binary = self._memory[_STATUS_B] & _B_BINARY

        def decode(value: int) -> int:
            return value if binary else _from_bcd(value)

        hours = self._memory[_HOURS]
        if self._memory[_STATUS_B] & _B_24_HOUR:
            hour = decode(hours)
        else:
            hour = decode(hours & ~_PM) % 12 + (12 if hours & _PM else 0)
        year, month, day, minute, second = (
            decode(self._memory[index]) for index in (_YEAR, _MONTH, _DAY, _MINUTES, _SECONDS)
        )
        year += decode(self._memory[_CENTURY]) * 100
        try:
            guest_time = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            return
        self._held = None
        self._offset = guest_time - self._host_time()

    def _clock_register(self, index: int, now: datetime) -> int:
        value = {
            _SECONDS: now.second,
            _MINUTES: now.minute,
            _HOURS: now.hour,
            _WEEKDAY: now.isoweekday() % 7 + 1,  # Sunday is 1
            _DAY: now.day,
            _MONTH: now.month,
            _YEAR: now.year % 100,
            _CENTURY: now.year // 100,
        }[index]
        status_b = self._memory[_STATUS_B]
        pm = 0
        if index == _HOURS and not status_b & _B_24_HOUR:
            pm = _PM if value >= 12 else 0
            value = value % 12 or 12
        return (value if status_b & _B_BINARY else _to_bcd(value)) | pm
