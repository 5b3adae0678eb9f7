"""The progress codes at port 0x80."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.legacy.debug_port import DebugPort


def write(port, codes):
    for code in codes:
        port.write(0, memoryview(bytes((code,))))


def test_codes_are_kept_with_their_time():
    """Each new code is noted with the time of its first appearance."""
    port = DebugPort(clock=itertools.count(100, 10).__next__)
    write(port, (1, 1, 1, 2, 1))
    assert port.codes == ((100, 1), (110, 2), (120, 1))


def test_memory_is_bounded():
    """Only the last codes are kept."""
    port = DebugPort(depth=3)
    write(port, range(200))
    assert [entry.code for entry in port.codes] == [197, 198, 199]


def test_first_code_counts_whatever_it_is():
    """A code that equals what the port reads at reset is a code, too."""
    port = DebugPort()
    write(port, (0xFF,))
    assert [entry.code for entry in port.codes] == [0xFF]


def test_last_code_reads_back():
    """The port reads as its last code."""
    port = DebugPort()
    write(port, (0x55,))
    data = memoryview(bytearray(2))
    port.read(0, data)
    assert bytes(data) == b"\x55\xff"


@given(st.booleans(), st.integers(0, 3), st.binary(max_size=9))
def test_no_access_raises(writes, offset, content):
    """Whatever a guest does, the port survives."""
    port = DebugPort()
    if writes:
        port.write(offset, memoryview(content))
    else:
        port.read(offset, memoryview(bytearray(content)))
