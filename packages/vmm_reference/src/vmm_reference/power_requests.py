"""What a guest asks of its machine, on a vCPU's thread: to power off, to reset, to note a panic."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vmm_reference.exit_codes import EndKind, VmExit
from vmm_reference.legacy.pvpanic import PanicEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.event_loop import EventLoop

logger = logging.getLogger(__name__)

_PANIC_GRACE_NS = 2_000_000_000
"""How long a panicked guest may go on, to print what it has to say and to reset itself."""


class PowerRequests:
    """Ends a machine as its guest wishes.

    Args:
        stop: ends the machine.

    Attributes:
        loop: where a panicked guest's time runs out; None while there is none.
        tells_of_panic: whether a reset that the guest asks for now is a panic's.
        panicked: whether the guest's kernel has panicked.
    """

    def __init__(self, stop: Callable[[VmExit], object]) -> None:
        self._stop = stop
        self.loop: EventLoop | None = None
        self.tells_of_panic: Callable[[], bool] = lambda: False
        self.panicked = False

    def power_off(self) -> None:
        """End for good."""
        self._stop(VmExit(EndKind.POWERED_OFF))

    def reset(self) -> None:
        """Start again; this VMM ends instead and says so."""
        if self.tells_of_panic():
            self.panicked = True
        self._stop(VmExit(EndKind.RESET))

    def panic(self, events: PanicEvent) -> None:
        """Let a panicked guest say what it has to say, then end it."""
        if events & PanicEvent.CRASH_LOADED:
            logger.warning("the guest's kernel panicked; its crash kernel takes over")
            return
        self.panicked = True
        if self.loop is not None:
            self.loop.call_later(_PANIC_GRACE_NS, lambda: self._stop(VmExit(EndKind.PANIC)))
