"""One thread that waits: file descriptors that become readable, and timers that run out.

Device work hangs on file descriptors; the loop calls whoever registered them, on its own thread,
one at a time. A callback must not block. An exception out of a callback ends the loop and goes to
`on_error`, because a device that stopped working must end its machine instead of leaving it half
alive.

Any thread may register, unregister and set timers.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

logger = logging.getLogger(__name__)

_NS_PER_S = 1_000_000_000


class Timer:
    """A callback that is due once; `cancel` takes it back."""

    __slots__ = ("_callback", "deadline_ns")

    def __init__(self, deadline_ns: int, callback: Callable[[], object]) -> None:
        self.deadline_ns = deadline_ns
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Take the timer back; nothing happens if it has already run."""
        self._callback = None

    def fire(self) -> None:
        """Run the callback, at most once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class EventLoop:
    """A device thread of a virtual machine.

    Args:
        on_error: called on the loop's thread with the exception that ended it.
        name: the thread's, for debuggers.
    """

    def __init__(self, on_error: Callable[[BaseException], None], name: str = "event-loop") -> None:
        self._on_error = on_error
        self._name = name
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._readers: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[int, int, Timer]] = []
        self._sequence = itertools.count()
        self._lock = threading.Lock()
        self._stopping = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever `fd` is readable, has hung up or is in error (level-triggered).

        Raises:
            PermissionError: epoll cannot wait for this kind of file (a regular file is always
                ready).
        """
        self._readers[fd] = callback
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:
            del self._readers[fd]
            raise

    def remove_reader(self, fd: int) -> None:
        """Forget `fd`; harmless if it is not registered, or closed by now."""
        if self._readers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):  # what is closed has left the epoll by itself
                self._epoll.unregister(fd)

    def call_later(self, delay_ns: int, callback: Callable[[], object]) -> Timer:
        """Call `callback` on the loop's thread when `delay_ns` nanoseconds have passed."""
        timer = Timer(time.monotonic_ns() + delay_ns, callback)
        with self._lock:
            heapq.heappush(self._timers, (timer.deadline_ns, next(self._sequence), timer))
        self._wake()
        return timer

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the loop's thread as soon as it is free."""
        self.call_later(0, callback)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make the thread end after the callback that it may be running; wait for it."""
        self._stopping = True
        if self._closed:
            return
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """Stop the thread and let go of everything; may be called again."""
        if self._closed:
            return
        self.stop()
        self._closed = True
        self._readers.clear()
        self._epoll.close()
        os.close(self._wake_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:  # noqa: BLE001  # the owner decides what it means
            self._on_error(error)

    def _turn(self) -> None:
        for fd, _events in self._epoll.poll(self._timeout_s()):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                continue
            callback = self._readers.get(fd)  # gone if an earlier callback of this turn removed it
            if callback is not None:
                callback()
        for timer in self._due():
            timer.fire()

    def _timeout_s(self) -> float | None:
        with self._lock:
            if not self._timers:
                return None
            return max(0.0, (self._timers[0][0] - time.monotonic_ns()) / _NS_PER_S)

    def _due(self) -> list[Timer]:
        now = time.monotonic_ns()
        due = []
        with self._lock:
            while self._timers and self._timers[0][0] <= now:
                due.append(heapq.heappop(self._timers)[2])
        return due
