"""Port 0x80, where firmware and kernels leave progress codes (POST codes).

Linux also writes here to pass about a microsecond after slow port accesses, so the port is written
often and must cost little.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

BASE: Final = 0x80
SIZE: Final = 1


class DebugCode(NamedTuple):
    """A code and the host's monotonic time (ns) at which it was written."""

    time_ns: int
    code: int


class DebugPort:
    """Collects the last codes.

    Args:
        depth: how many codes to remember.
        clock: monotonic time in ns.
    """

    def __init__(self, depth: int = 64, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._codes: deque[DebugCode] = deque(maxlen=depth)
        self._clock = clock
        self._last = 0xFF

    @property
    def codes(self) -> tuple[DebugCode, ...]:
        """The last codes, oldest first; a run of the same code counts once, at its first time."""
        return tuple(self._codes.copy())

    def read(self, offset: int, data: memoryview) -> None:
        """Read the last code back."""
        data[:] = b"\xff" * len(data)
        if data and offset == 0:
            data[0] = self._last

    def write(self, offset: int, data: memoryview) -> None:
        """Leave a code."""
        if not data or offset:
            return
        code = data[0]
        if code != self._last or not self._codes:
            self._last = code
            self._codes.append(DebugCode(self._clock(), code))
