"""Noticing that the user's terminal is gone, also where no signal says so.

The kernel sends SIGHUP to the session whose controlling terminal it is. A process started into
another session, by setsid(1) say, sees only that the descriptor has hung up; without anybody to see
its output or to stop it, its machine ends as by the signal.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.event_loop import EventLoop


class HangUp:
    """Watches a terminal; it need not be read, because a guest may have no room for input.

    Args:
        loop: where it is waited for.
        fd: the terminal; it stays the caller's.
        on_hang_up: called on the loop's thread, once.
    """

    def __init__(self, loop: EventLoop, fd: int, on_hang_up: Callable[[], object]) -> None:
        self._loop = loop
        self._on_hang_up = on_hang_up
        self._epoll = select.epoll()
        # Edge-triggered: keys that wait for the guest are looked at once. With EPOLLIN, because a
        # hang-up wakes those who wait to read.
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        loop.add_reader(self._epoll.fileno(), self._look)

    def close(self) -> None:
        """Watch no more; may be called again."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _look(self) -> None:
        if any(events & select.EPOLLHUP for _fd, events in self._epoll.poll(0)):
            self._loop.remove_reader(self._epoll.fileno())
            self._on_hang_up()
