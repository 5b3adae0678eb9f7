"""In which order others see the accesses of one thread."""

from __future__ import annotations

import enum

from vm_memory import _core


class Ordering(enum.IntEnum):
    """What a load or a store promises about the accesses around it (C11 §7.17.3, and Rust's).

    A load may be RELAXED, ACQUIRE or SEQ_CST; a store RELAXED, RELEASE or SEQ_CST.
    """

    #: Only that the access itself does not tear.
    RELAXED = _core.RELAXED
    #: What follows the load sees what the writer did before its release.
    ACQUIRE = _core.ACQUIRE
    #: Who sees the value by an acquire also sees what came before the store.
    RELEASE = _core.RELEASE
    #: Both, and all such accesses of all threads have one order.
    SEQ_CST = _core.SEQ_CST
