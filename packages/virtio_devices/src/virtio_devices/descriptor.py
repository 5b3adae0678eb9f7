"""Descriptors of this package's own: for files that others opened, and to wait for them.

A descriptor's maker may close it at any time, and then its number may be another file's: bytes of
a guest would go there. So a device works on a duplicate (dup(2)), which is the same open file with
the same flags, and closes that itself.
"""

from __future__ import annotations

import os
import select


class OwnDescriptor:
    """A second descriptor of an open file, until it is closed or forgotten.

    Args:
        fd: the first one; stays the caller's.

    Raises:
        OSError: there is no such descriptor, or no room for another one.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = -1
        self._fd = os.dup(fd)

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._fd

    def close(self) -> None:
        """Close it; the file stays open for others. Nothing happens the second time."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class Readiness:
    """A descriptor that is readable while another one is ready, and that outlives it.

    Devices name descriptors that are to become readable (`Device.readiness`), and whoever waits for
    them knows them by their numbers, on another thread perhaps. So what a device names stays open
    as long as the device lives, and what it stands for may come and go. An epoll instance is such a
    descriptor: it is readable when one of its events is there (epoll(7)).
    """

    __slots__ = ("_epoll", "_fd")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fd = -1

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._epoll.fileno()

    def follow(self, fd: int, events: int) -> None:
        """Stand for this descriptor; nothing happens if it does.

        Args:
            fd: a pipe, a socket, a terminal, a tap. To be forgotten before it is closed: epoll
                goes on to report a file that is open elsewhere.
            events: select.EPOLLIN or EPOLLOUT.
        """
        if self._fd < 0:
            self._epoll.register(fd, events)
            self._fd = fd

    def forget(self) -> None:
        """Stand for nothing, and never be readable."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Close it; nobody waits for it any more."""
        self._fd = -1
        self._epoll.close()
