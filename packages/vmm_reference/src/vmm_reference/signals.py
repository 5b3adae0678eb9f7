"""Signals while a guest runs: the machine ends in order, and the terminal is given back first.

Python runs handlers on the main thread only, which waits in `Vm.wait`. A second ending signal
means that the orderly way takes too long; it ends the process as if there were no handler.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

    from vmm_reference.terminal import Terminal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def wakeups() -> Iterator[int]:
    """Give a descriptor that becomes readable with every handled signal.

    A signal to the process may be taken by any of its threads. The handler in C then only notes it,
    and the main thread, which is to run the handler in Python, sleeps on: its system call was not
    interrupted. Whoever waits there must wait for this descriptor, too. Read it empty to wait
    again.

    On other threads than the main one, which run no handlers, the descriptor is -1.
    """
    if threading.current_thread() is not threading.main_thread():
        yield -1
        return
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


class EndedBySignal(BaseException):  # no error, as KeyboardInterrupt is none
    """An ending signal came while nothing waited for it.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class SignalHandlers:
    """Installs the handlers inside a ``with`` block, and what was there before after it.

    Args:
        on_end: called with the number of the first ending signal.
        terminal: the terminal to give back, if it is raw.
        on_resize: called when the terminal has another size; it may interrupt itself.
    """

    def __init__(
        self,
        on_end: Callable[[int], object],
        terminal: Terminal | None = None,
        on_resize: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_end = on_end
        self._on_resize = on_resize
        self._terminal = terminal
        self._before: dict[int, Any] = {}
        self._raises = False

    def __enter__(self) -> Self:
        for number in ENDING:
            # nohup's and a shell's wish that a signal be ignored is respected
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._end)
        if self._terminal is not None:
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
            self._before[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._continue)
            self._before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resize)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, an ending signal also interrupts what is being done, with `EndedBySignal`."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if self._terminal is not None:
            self._terminal.restore()
        signal.signal(number, signal.SIG_DFL)
        self._on_end(number)
        if self._raises:
            raise EndedBySignal(number)

    def _suspend(self, number: int, _frame: FrameType | None) -> None:
        """Stop as an ordinary program does, with the terminal as it was."""
        if self._terminal is not None:
            self._terminal.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # stops here; goes on after SIGCONT
        signal.signal(number, self._suspend)

    def _continue(self, _number: int, _frame: FrameType | None) -> None:
        """Take the terminal again, after a stop that no handler saw (SIGSTOP) too."""
        if self._terminal is not None:
            self._terminal.make_raw()

    def _resize(self, _number: int, _frame: FrameType | None) -> None:
        self._on_resize()
