"""The port by which a guest reports a panic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.legacy.pvpanic import PanicEvent, Pvpanic


@pytest.mark.parametrize(
    ("value", "events"),
    [
        (1, [PanicEvent.PANICKED]),
        (2, [PanicEvent.CRASH_LOADED]),
        (3, [PanicEvent.PANICKED | PanicEvent.CRASH_LOADED]),
        (0xFD, [PanicEvent.PANICKED]),
        (0, []),
        (0xF0, []),
    ],
)
def test_write_reports_understood_events(value, events):
    """The events of a write are reported once, without bits that we do not understand."""
    seen = []
    Pvpanic(seen.append).write(0, memoryview(bytes((value,))))
    assert seen == events


def test_read_tells_what_is_understood():
    """The driver asks first which events it may report."""
    data = memoryview(bytearray(2))
    Pvpanic(print).read(0, data)
    assert bytes(data) == b"\x03\xff"


@given(st.booleans(), st.integers(0, 3), st.binary(max_size=9))
def test_no_access_raises(writes, offset, content):
    """Whatever a guest does, the port survives."""
    device = Pvpanic([].append)
    if writes:
        device.write(offset, memoryview(content))
    else:
        device.read(offset, memoryview(bytearray(content)))
