"""ACPI power-off and reset."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.legacy.sleep import CONTROL, RESET, SIZE, STATUS, SleepControl

SLP_EN = 0x20


@pytest.fixture
def events():
    return []


@pytest.fixture
def device(events):
    return SleepControl(lambda: events.append("poweroff"), lambda: events.append("reset"))


def write(device, offset, value):
    device.write(offset, memoryview(bytes((value,))))


def test_s5_powers_off(device, events):
    """Sleep type 5 with the enable bit is power-off: the byte 0x34."""
    write(device, CONTROL, 5 << 2 | SLP_EN)
    assert events == ["poweroff"]


def test_reset_register_resets(device, events):
    """The reset register takes its one value."""
    write(device, RESET, 1)
    assert events == ["reset"]


@pytest.mark.parametrize(
    ("offset", "value"),
    [(CONTROL, 5 << 2), (CONTROL, 1), (RESET, 0), (RESET, 2), (STATUS, 0x80), (3, 1)],
)
def test_everything_else_does_nothing(device, events, offset, value):
    """Without the enable bit, with another value or in another register nothing happens."""
    write(device, offset, value)
    assert events == []


def test_unknown_sleep_type_is_logged_once(device, events, caplog):
    """A sleep state that the DSDT does not offer has no effect and cannot flood the log."""
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            write(device, CONTROL, 3 << 2 | SLP_EN)
    assert events == []
    assert len(caplog.records) == 1


def test_status_reads_zero(device):
    """Nothing has woken; a guest that waits for its sleep to begin goes on waiting."""
    data = memoryview(bytearray(b"\xff" * SIZE))
    device.read(STATUS, data)
    assert bytes(data) == bytes(SIZE)


@given(st.booleans(), st.integers(0, SIZE), st.binary(max_size=9))
def test_no_access_raises(writes, offset, content):
    """Whatever a guest does, the registers survive."""
    device = SleepControl(lambda: None, lambda: None)
    if writes:
        device.write(offset, memoryview(content))
    else:
        device.read(offset, memoryview(bytearray(content)))
