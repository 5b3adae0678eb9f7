"""The zstd module, if this Python has one: 3.14's own, or its backport."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any


def find_zstd() -> Any | None:
    """Return `compression.zstd` or `backports.zstd`, which are alike; None without either."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return import_module(name)
    return None
