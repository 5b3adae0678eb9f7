"""The host's ends of a guest's consoles: where keys come from and where output goes."""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.event_loop import EventLoop
    from vmm_reference.terminal import EscapeFilter

logger = logging.getLogger(__name__)

_CHUNK = 64
"""Bytes read at once: about what a serial port's FIFO holds, so hardly anything waits here."""


class FdWriter:
    """Writes what a guest says to a file descriptor, completely and in order.

    It may block the vCPU that writes, which is how a slow reader slows down its guest. When nobody
    reads any more (EPIPE, a terminal that hung up) it says so once and drops the rest.

    Args:
        fd: where to write; it stays the caller's.
        on_broken: called, on the vCPU's thread, when writing has become pointless.
    """

    __slots__ = ("_broken", "_fd", "_on_broken")

    def __init__(self, fd: int, on_broken: Callable[[OSError], object]) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._broken = False

    def __call__(self, data: bytes) -> None:
        """Write all of `data`."""
        if self._broken:
            return
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                # Somebody else made the shared file description non-blocking; wait as if it were
                # not.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError as error:
                self._broken = True
                self._on_broken(error)
                return


class ConsoleInput:
    """Carries bytes from a file descriptor into a guest's console, at the guest's pace.

    While the console has no room nothing is read: at most one chunk waits here. At the end of the
    input, or when it fails, the descriptor is left alone. All reading happens on the event loop's
    thread.

    Args:
        loop: the event loop to run on.
        fd: where to read; it stays the caller's.
        receive: takes bytes and returns how many it took (`Serial.receive`).
        escape: takes out the keys that are not the guest's; None if all are.
        on_leave: called on the loop's thread when the user wants to leave.
        chunk: how many bytes are read at once.
    """

    def __init__(
        self,
        loop: EventLoop,
        fd: int,
        receive: Callable[[bytes], int],
        *,
        escape: EscapeFilter | None = None,
        on_leave: Callable[[], object] = lambda: None,
        chunk: int = _CHUNK,
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._receive = receive
        self._escape = escape
        self._on_leave = on_leave
        self._chunk = chunk
        self._pending = b""
        self._watching = False
        self._always_ready = False
        self._ended = False
        self._lock = threading.Lock()
        self._woken = False

    @property
    def ended(self) -> bool:
        """Whether the input has come to its end and everything of it is delivered or dropped."""
        return self._ended and not self._pending

    def start(self) -> None:
        """Begin to read."""
        self._watch()

    def on_room(self) -> None:
        """Carry on: the port takes bytes again. May be called on any thread."""
        with self._lock:
            if self._woken:
                return
            self._woken = True
        self._loop.call_soon(self._resume)

    def stop(self) -> None:
        """Read no more."""
        self._ended = True
        self._unwatch()

    def _resume(self) -> None:
        with self._lock:
            self._woken = False
        self._deliver()
        if not self._pending and not self._ended:
            self._watch()

    def _watch(self) -> None:
        if self._always_ready:
            self._loop.call_soon(self._read)
        elif not self._watching:
            try:
                self._loop.add_reader(self._fd, self._read)
                self._watching = True
            except PermissionError:  # a regular file or /dev/null: epoll has nothing to wait for
                self._always_ready = True
                self._loop.call_soon(self._read)
            except OSError as error:  # closed stdin
                logger.debug("no console input: %s", error)
                self._ended = True

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._fd)

    def _read(self) -> None:
        if self._ended or self._pending:
            return
        try:
            data = os.read(self._fd, self._chunk)
        except BlockingIOError:
            return
        except OSError as error:  # the terminal hung up
            logger.debug("console input ended: %s", error)
            data = b""
        if not data:
            self.stop()
            return
        if self._escape is not None:
            data, leave = self._escape.feed(data)
            if leave:
                self.stop()
                self._on_leave()
                return
        self._pending = data
        self._deliver()
        if not self._pending and self._always_ready:
            self._watch()

    def _deliver(self) -> None:
        if not self._pending:
            return
        taken = self._receive(self._pending)
        self._pending = self._pending[taken:]
        if self._pending:
            self._unwatch()  # level-triggered: it would call without end
