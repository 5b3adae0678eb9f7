"""When one side must tell the other: the same rules for both directions.

See virtio 1.2 §2.7.7.2 (used buffers) and §2.7.10.1 (available buffers).
"""

from __future__ import annotations

_INDICES = 1 << 16


def crosses_event(event: int, index: int, added: int) -> bool:
    """Whether adding `added` entries, which led to `index`, passed the entry `event`.

    All but `added` are free-running 16-bit indices. The entry with index `event` itself asks
    for the notification, that is, the step from `event` to `event` + 1.
    """
    return (index - event - 1) % _INDICES < added
