"""The keyboard controller's ports: reset, and probes that end quickly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.legacy.i8042 import I8042, SIZE


class Resets:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


@pytest.fixture
def resets():
    return Resets()


@pytest.fixture
def controller(resets):
    return I8042(resets)


def read(controller, offset):
    data = memoryview(bytearray(1))
    controller.read(offset, data)
    return data[0]


def write(controller, offset, *values):
    for value in values:
        controller.write(offset, memoryview(bytes((value,))))


@pytest.mark.parametrize("command", [0xFE, 0xF0, 0xFC])
def test_pulse_of_the_reset_line_resets(controller, resets, command):
    """A pulse command whose bit 0 is clear pulls the processor's reset line."""
    write(controller, 4, command)
    assert resets.count == 1


@pytest.mark.parametrize("command", [0xFF, 0xF1, 0xAA, 0x20, 0xD1, 0x00])
def test_other_commands_do_not_reset(controller, resets, command):
    """No other command resets."""
    write(controller, 4, command)
    assert resets.count == 0


def test_output_port_drives_the_reset_line(controller, resets):
    """Command 0xd1 lets the next data byte set the output port, whose bit 0 is the reset line."""
    write(controller, 4, 0xD1)
    write(controller, 0, 0xDF)
    write(controller, 0, 0xFE)
    assert resets.count == 0
    write(controller, 4, 0xD1)
    write(controller, 0, 0xFE)
    assert resets.count == 1


def test_reset_is_never_kept_waiting(controller):
    """Linux waits for "input buffer full" to clear before it resets, for up to 65536 polls."""
    assert not read(controller, 4) & 0x02


def test_driver_finds_no_controller(controller):
    """Linux's driver gives up when the output buffer is still full after 16 reads."""
    polls = 0
    while read(controller, 4) & 0x01 and polls < 16:
        read(controller, 0)
        polls += 1
    assert polls == 16


def test_port_b_keeps_gate_and_toggles_refresh(controller):
    """Port 0x61 reads back its low half, timer 2 as run out, no NMI reason, and a live refresh."""
    write(controller, 1, 0xFF)
    first, second = read(controller, 1), read(controller, 1)
    assert first ^ second == 0x10
    assert first & 0xEF == 0x2F


accesses = st.tuples(st.booleans(), st.integers(0, SIZE + 3), st.binary(max_size=9))


@given(st.lists(accesses, max_size=40))
def test_no_access_raises(operations):
    """Whatever a guest does, the controller survives."""
    controller = I8042(Resets())
    for writes, offset, content in operations:
        if writes:
            controller.write(offset, memoryview(content))
        else:
            controller.read(offset, memoryview(bytearray(content)))
