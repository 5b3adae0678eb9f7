"""What a saved console remembers."""

from __future__ import annotations

from typing import NamedTuple


class ConsoleState(NamedTuple):
    """A `Console`, without what its ports are connected to.

    Attributes:
        size: columns and rows of port 0.
        host_open: whether the host's end of each port is there.
        guest_open: whether the guest's end of each port in use is; empty while no driver runs.
        written: bytes that have gone out of the next buffer of output of each port in use, where a
            descriptor took only a part.
        messages: what the driver has not been told yet: port, event and all of the message.
    """

    size: tuple[int, int]
    host_open: tuple[bool, ...]
    guest_open: tuple[bool, ...]
    written: tuple[int, ...]
    messages: tuple[tuple[int, int, bytes], ...]
