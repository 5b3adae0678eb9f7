"""The registers by which an ACPI guest powers off and resets.

On hardware-reduced ACPI there is no PM1 block: the FADT names a sleep control register, a sleep
status register and a reset register (ACPI 6.3 §4.8.3.7, §4.8.3.6). Here they are bytes 0, 1 and 2
of one range of I/O ports.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

BASE: Final = 0x600
SIZE: Final = 4

CONTROL: Final = 0
"""Offset of the sleep control register: SLP_TYP in bits 2 to 4, SLP_EN in bit 5."""
STATUS: Final = 1
"""Offset of the sleep status register: WAK_STS in bit 7, which we never set."""
RESET: Final = 2
"""Offset of the reset register."""

RESET_VALUE: Final = 1
"""What to write to the reset register."""
S5_SLEEP_TYPE: Final = 5
"""SLP_TYP of the only sleep state there is, soft off; the DSDT's ``\\_S5`` says the same."""

_SLP_EN = 0x20


class SleepControl:
    """Power-off and reset.

    Args:
        on_poweroff: called, on the vCPU's thread, when the guest enters S5.
        on_reset: called likewise when it writes the reset register.

    After either the guest polls or goes on until its vCPUs are stopped.
    """

    def __init__(self, on_poweroff: Callable[[], object], on_reset: Callable[[], object]) -> None:
        self._on_poweroff = on_poweroff
        self._on_reset = on_reset
        self._warned = False

    def read(self, offset: int, data: memoryview) -> None:
        """Read zeros: nothing is asleep, and nothing has woken."""
        del offset
        data[:] = bytes(len(data))

    def write(self, offset: int, data: memoryview) -> None:
        """Enter a sleep state, or reset."""
        if not data:
            return
        value = data[0]
        if offset == CONTROL and value & _SLP_EN:
            self._sleep(value >> 2 & 7)
        elif offset == RESET and value == RESET_VALUE:
            self._on_reset()

    def _sleep(self, sleep_type: int) -> None:
        if sleep_type == S5_SLEEP_TYPE:
            self._on_poweroff()
        elif not self._warned:
            self._warned = True
            logger.warning("the guest asked for sleep type %d, which does not exist", sleep_type)
