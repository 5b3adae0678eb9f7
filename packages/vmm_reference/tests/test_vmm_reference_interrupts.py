"""An interrupt line over an eventfd."""

from __future__ import annotations

import os

import pytest

from vmm_reference.interrupts import EventFdTrigger


def test_edges_arrive_at_the_eventfd():
    """Each `trigger` adds one to the eventfd, so edges that nobody took yet merge."""
    with EventFdTrigger() as line:
        line.trigger()
        line.trigger()
        assert os.eventfd_read(line.fileno()) == 2


def test_full_counter_keeps_the_edge_and_does_not_block():
    """An eventfd at its limit already says that an edge is pending."""
    with EventFdTrigger() as line:
        os.eventfd_write(line.fileno(), 2**64 - 2)
        line.trigger()
        assert os.eventfd_read(line.fileno()) == 2**64 - 2


def test_closed_line_is_silent():
    """`close` may be repeated; afterwards an edge goes nowhere and there is no fd."""
    line = EventFdTrigger()
    fd = line.fileno()
    line.close()
    line.close()
    assert line.closed
    line.trigger()
    with pytest.raises(ValueError, match="closed"):
        line.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_forgotten_line_warns():
    """A line that was not closed says so when it goes away, and leaks nothing."""
    line = EventFdTrigger()
    with pytest.warns(ResourceWarning, match="unclosed"):
        line.__del__()
    assert line.closed
