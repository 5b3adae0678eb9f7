"""A pseudo terminal that people attach to and detach from as they like.

The master is non-blocking and ours. Nobody may have the other side open: then what is written to
the master is refused (EIO), and the master shows POLLHUP, as it does from the beginning here. That
somebody attaches is an event that Linux tells nobody of, so it is looked for while nobody is there;
that somebody detaches ends an edge-triggered wait.
"""

from __future__ import annotations

import os
import select
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.event_loop import EventLoop, Timer

_LOOK_NS = 100_000_000
"""How often to look for somebody who attaches: a tenth of a second is at once for people."""


class PseudoTerminal:
    """The VMM's side of a pseudo terminal, raw from the beginning.

    Args:
        loop: where it is looked after.
        on_attach: called on the loop's thread when somebody may have attached; also once too often.

    Attributes:
        path: what to attach to.

    Raises:
        OSError: the host has no pseudo terminal left.
    """

    def __init__(self, loop: EventLoop, on_attach: Callable[[], object]) -> None:
        self._loop = loop
        self._on_attach = on_attach
        self._master, slave = os.openpty()
        try:
            tty.setraw(slave)  # what the guest writes must not come back to it as an echo
            self.path = os.ttyname(slave)
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)
        self._hang_up = select.epoll()
        self._poll = select.poll()
        self._poll.register(self._master, select.POLLIN)
        self._timer: Timer | None = None

    def fileno(self) -> int:
        """The master's descriptor."""
        return self._master

    def start(self) -> None:
        """Begin to look after it."""
        self._hang_up.register(self._master, select.EPOLLET)  # EPOLLHUP comes unasked
        self._loop.add_reader(self._hang_up.fileno(), self._detached)

    def close(self) -> None:
        """Hang up; may be called again."""
        if self._hang_up.closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._hang_up.fileno())
        self._hang_up.close()
        os.close(self._master)

    def _detached(self) -> None:
        self._hang_up.poll(0)  # takes the edge
        if self._timer is not None:
            self._timer.cancel()
        self._look()

    def _look(self) -> None:
        events = dict(self._poll.poll(0)).get(self._master, 0)
        is_there = not events & select.POLLHUP
        if is_there or events & select.POLLIN:  # or has left something to read
            self._on_attach()
        # Once more for somebody who is there: whoever reads the master may have met the end of the
        # one before only now.
        following = self._on_attach if is_there else self._look
        self._timer = self._loop.call_later(_LOOK_NS, following)
