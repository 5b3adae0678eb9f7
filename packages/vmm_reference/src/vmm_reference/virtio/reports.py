"""What devices say about their guest or host, for the log: a guest decides how often."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vmm_reference.os_reason import os_reason

if TYPE_CHECKING:
    import logging

_BURST = 10
_PERIOD_NS = 5_000_000_000


class Reports:
    """Logs errors as warnings, at most 10 in 5 seconds, and how many it has left out.

    Args:
        logger: where they go.
        name: the device's, and what of the host it stands on: ``disk0 (disk.img)``.
    """

    def __init__(self, logger: logging.Logger, name: str) -> None:
        self._logger = logger
        self._name = name
        self._began = 0
        self._count = 0

    def __call__(self, error: BaseException) -> None:
        """Log `error`, or count it."""
        now = time.monotonic_ns()
        if now - self._began > _PERIOD_NS:
            if self._count > _BURST:
                left_out = self._count - _BURST
                self._logger.warning("%s: %d more like these", self._name, left_out)
            self._began, self._count = now, 0
        self._count += 1
        if self._count <= _BURST:
            reason = os_reason(error) if isinstance(error, OSError) else error
            self._logger.warning("%s: %s", self._name, reason)
