"""The device thread: readable descriptors, timers, errors."""

from __future__ import annotations

import os
import threading
import time

import pytest

from vmm_reference.event_loop import EventLoop

MS = 1_000_000


@pytest.fixture
def errors():
    """What ended the loop."""
    return []


@pytest.fixture
def loop(errors):
    """A running loop."""
    with EventLoop(errors.append) as made:
        made.start()
        yield made


def test_reader_is_called_when_there_is_something(loop, pipe):
    """A readable descriptor's callback runs on the loop's thread."""
    seen, done = [], threading.Event()

    def read():
        seen.append((os.read(pipe[0], 10), threading.current_thread().name))
        done.set()

    loop.add_reader(pipe[0], read)
    os.write(pipe[1], b"x")
    assert done.wait(10)
    assert seen == [(b"x", "event-loop")]


def test_removed_reader_is_not_called(loop, pipe):
    """After removal a descriptor may be readable without anybody caring."""
    seen, done = [], threading.Event()
    loop.add_reader(pipe[0], lambda: seen.append(1))
    loop.remove_reader(pipe[0])
    loop.remove_reader(pipe[0])
    os.write(pipe[1], b"x")
    loop.call_later(20 * MS, done.set)
    assert done.wait(10)
    assert seen == []


def test_timers_run_in_order_of_their_deadlines(loop):
    """Timers run when due, the earlier first, whatever the order in which they were set."""
    order, done = [], threading.Event()
    loop.call_later(40 * MS, lambda: (order.append("late"), done.set()))
    loop.call_later(5 * MS, lambda: order.append("early"))
    loop.call_soon(lambda: order.append("soon"))
    assert done.wait(10)
    assert order == ["soon", "early", "late"]


def test_timer_does_not_run_early(loop):
    """A timer never fires before its time."""
    fired = threading.Event()
    start = time.monotonic_ns()
    loop.call_later(30 * MS, fired.set)
    assert fired.wait(10)
    assert time.monotonic_ns() - start >= 30 * MS


def test_cancelled_timer_does_not_run(loop):
    """A timer that was taken back stays silent."""
    seen, done = [], threading.Event()
    loop.call_later(5 * MS, lambda: seen.append(1)).cancel()
    loop.call_later(20 * MS, done.set)
    assert done.wait(10)
    assert seen == []


def test_error_ends_the_loop_and_is_reported(loop, errors):
    """An exception of a callback goes to the owner; the loop does not swallow it."""
    loop.call_soon(lambda: 1 // 0)
    loop._thread.join(10)
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_regular_file_cannot_be_waited_for(loop, tmp_path):
    """Epoll refuses regular files, and the loop passes that on without keeping the callback."""
    with (tmp_path / "file").open("w+") as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file.fileno(), print)
        assert file.fileno() not in loop._readers


def test_callback_may_stop_the_loop(errors):
    """The loop's own thread can end it without waiting for itself."""
    with EventLoop(errors.append) as loop:
        loop.start()
        loop.call_soon(loop.stop)
        loop._thread.join(10)
        assert not loop._thread.is_alive()


def test_close_is_idempotent(errors):
    """Closing again, or without a start, does nothing."""
    loop = EventLoop(errors.append)
    loop.close()
    loop.close()
    assert errors == []
