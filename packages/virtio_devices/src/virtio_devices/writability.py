"""To wait until a descriptor can be written, where only readable ones are waited for."""

from __future__ import annotations

import select


class Writability:
    """A descriptor that is readable while another one is writable.

    Devices name descriptors that are to become readable (`Device.readiness`). An epoll instance is
    such a descriptor: it is readable when one of its events is there (epoll(7)).

    Args:
        fd: what is to be written; a pipe, a socket, a terminal, a tap. It must stay open as long
            as this object is used.
    """

    __slots__ = ("_epoll",)

    def __init__(self, fd: int) -> None:
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLOUT)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close it; `fd` stays open. Nothing happens the second time."""
        self._epoll.close()
