"""The device status field and the order in which a driver may fill it."""

from __future__ import annotations

from enum import IntFlag

from virtio_devices.errors import StatusViolation


class DeviceStatus(IntFlag):
    """How far the driver got, and whether either side gave up (virtio 1.2 §2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


# Plain integers from here on: a flag class remembers every value that it ever saw, and a guest
# chooses these. The bits that a driver sets are in the order of virtio 1.2 §3.1.1; each needs the
# one before.
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = (
    int(bit) for bit in DeviceStatus
)
_STEPS = (ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK)
_DRIVER_BITS = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED


def steps_between(status: int, value: int) -> list[int]:
    """The bits that a driver adds by writing `value` over `status`, in their order.

    Several bits in one write are taken one after another, FAILED last.

    Args:
        status: the device status before the write.
        value: what the driver wrote, not 0 (that is a reset).

    Raises:
        StatusViolation: the write clears a bit, skips a step, sets a bit that is not the
            driver's, or follows FAILED.
    """
    driver_value = value & ~NEEDS_RESET
    if driver_value & ~_DRIVER_BITS or value & NEEDS_RESET & ~status:
        raise StatusViolation(status, value, "it sets a bit that is not the driver's", "2.1")
    cleared = status & ~NEEDS_RESET & ~driver_value
    if cleared:
        raise StatusViolation(status, value, f"it clears {cleared:#x}", "2.1.1")
    added = driver_value & ~status
    if added and status & FAILED:
        raise StatusViolation(status, value, "the driver gave up before", "2.1.1")
    steps = []
    complete = True
    for step in _STEPS:
        if added & step:
            if not complete:
                raise StatusViolation(status, value, f"{step:#x} comes too early", "3.1.1")
            steps.append(step)
        complete = complete and bool(driver_value & step)
    if added & FAILED:
        steps.append(FAILED)
    return steps
