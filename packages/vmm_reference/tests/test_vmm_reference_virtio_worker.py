"""What wakes a device on its loop, and that it comes back to its work."""

from __future__ import annotations

import os
import threading

import pytest

from vmm_reference.event_loop import EventLoop
from vmm_reference.virtio.worker import VirtioWorker

TIMEOUT = 10


class FakeDevice:
    """Two queues; `readiness` is what a test says."""

    queue_sizes = (4, 4)

    def __init__(self):
        self.readiness = {}


class Work:
    """Records calls of `process_queue`; `more` says how often each wants to come again."""

    def __init__(self):
        self.calls = []
        self.more = 0
        self.happened = threading.Event()
        self.on_call = lambda: None

    def process_queue(self, index):
        self.calls.append(index)
        self.on_call()
        self.happened.set()
        self.more -= 1
        return self.more >= 0

    def wait(self):
        assert self.happened.wait(TIMEOUT)
        self.happened.clear()


@pytest.fixture
def loop():
    errors = []
    with EventLoop(errors.append, "device") as loop:
        loop.start()
        yield loop
    assert errors == []


@pytest.fixture
def device():
    return FakeDevice()


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def worker(device, work, loop):
    worker = VirtioWorker(device, loop)
    worker.start(work.process_queue)
    yield worker
    loop.stop()
    worker.close()


def settle(loop):
    """Returns when the loop has done what it was told so far."""
    done = threading.Event()
    loop.call_soon(done.set)
    assert done.wait(TIMEOUT)


def test_a_kick_wakes_its_queue(worker, work, loop):
    """Once for all kicks that came before, for that queue alone."""
    worker.kick(1)
    work.wait()
    settle(loop)
    assert work.calls == [1]


def test_a_write_to_the_eventfd_is_a_kick(worker, work):
    """The hypervisor writes it on its own."""
    os.eventfd_write(worker.kicks[0], 1)
    work.wait()
    assert work.calls == [0]


def test_unfinished_work_is_gone_on_with(worker, work, loop):
    """As long as the device wants to be called again it is, without a kick."""
    work.more = 3
    worker.kick(0)
    while len(work.calls) < 4:
        work.wait()
    settle(loop)
    assert work.calls == [0] * 4


def test_the_devices_own_descriptors(worker, device, work, loop, pipe):
    """They wake it while it wants them, and no longer."""
    device.readiness = {pipe[0]: 1}
    worker.look_again()

    def read():
        os.read(pipe[0], 100)
        device.readiness = {}

    work.on_call = read
    os.write(pipe[1], b"x")
    work.wait()
    os.write(pipe[1], b"y")
    settle(loop)
    assert work.calls == [1]
    device.readiness = {pipe[0]: 0}
    worker.look_again()
    work.wait()
    assert work.calls == [1, 0]


def test_a_descriptor_may_change_its_queue(worker, device, work, loop, pipe):
    """The new queue is processed, the old one is not."""
    device.readiness = {pipe[0]: 0}
    worker.look_again()
    settle(loop)
    device.readiness = {pipe[0]: 1}
    worker.look_again()
    settle(loop)
    work.on_call = lambda: os.read(pipe[0], 1)
    os.write(pipe[1], b"x")
    work.wait()
    assert work.calls == [1]


def test_nothing_happens_after_close(device, work, loop):
    """Work that was put off is dropped."""
    worker = VirtioWorker(device, loop)
    worker.start(work.process_queue)
    work.more = 1 << 60
    worker.kick(0)
    work.wait()
    loop.stop()
    worker.close()
    worker.close()
    count = len(work.calls)
    worker._work(0)
    worker._watch()
    assert len(work.calls) == count
    assert worker.kicks == ()
