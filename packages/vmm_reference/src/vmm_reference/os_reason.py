"""How an error of the system is said inside a sentence of ours."""

from __future__ import annotations


def os_reason(error: OSError) -> str:
    """What the system says of an error, as the rest of a sentence: no number, no capital."""
    reason = error.strerror or str(error)
    # "No such file" begins a sentence, "TAP interface" does not.
    return reason[:1].lower() + reason[1:] if reason[1:2].islower() else reason
