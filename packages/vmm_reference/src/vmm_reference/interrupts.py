"""How a device raises an interrupt: it calls an object that has `trigger()`.

A device does not know whether that is an irqfd, an MSI message or a test double, nor to which line
or vector it leads.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType


class Trigger(Protocol):
    """Something that raises an interrupt; callable from any thread, never blocks."""

    def trigger(self) -> None:
        """Signal one edge."""


class EventFdTrigger:
    """An interrupt line whose edge is a write to an eventfd, as KVM's irqfd wants it.

    The fd belongs to the trigger. Register it with the hypervisor (`VmFd.register_irqfd`) before
    the guest runs, unregister it before `close`. Edges that nobody has taken yet merge into one,
    as they do on an edge-triggered line.

    Any thread may call `trigger`; after `close` it does nothing, so a device that is still at work
    while its machine is torn down can neither fail nor write to somebody else's fd.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._fd < 0

    def fileno(self) -> int:
        """The eventfd.

        Raises:
            ValueError: the trigger is closed.
        """
        if self._fd < 0:
            raise ValueError("the trigger is closed")
        return self._fd

    def trigger(self) -> None:
        """Signal one edge; no effect after `close`."""
        # The lock keeps `close` from freeing the number between the test and the write.
        with self._lock:
            if self._fd < 0:
                return
            # Blocking would mean 2**64 - 2 edges that nobody took: one is pending, as it should be.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Close the eventfd; may be called again."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close()
