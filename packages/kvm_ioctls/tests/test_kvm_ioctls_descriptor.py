"""Descriptors: closed once, by whoever is the last to use the number, and never lost."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import warnings
from mmap import mmap

import pytest

from kvm_ioctls import KvmClosedError, KvmError, _run
from kvm_ioctls._descriptor import Descriptor

pytestmark = pytest.mark.timeout(60)


class Interruption(KeyboardInterrupt):
    """What the signal's handler raises in these tests."""


def interrupt_often(call, *, seconds: float, then=lambda: None) -> int:
    """Calls `call` with exceptions from a signal at any moment, `then` after each; how many."""
    caught, number, armed = 0, 0, False

    def handler(*_: object) -> None:
        if armed:
            raise Interruption

    former = signal.signal(signal.SIGALRM, handler)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            number += 1
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, 100e-6 + number % 40 * 20e-6)
                for _ in range(50):
                    call()
                armed = False
            except Interruption:
                armed = False
                caught += 1
                then()
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    return caught


def descriptors() -> set[str]:
    """The numbers that are open."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough


@pytest.fixture
def fake(monkeypatch):
    """`fake(answers)`: ioctl(2) calls the next of `answers` with the descriptor's number."""

    def install(*answers):
        remaining = iter(answers)
        monkeypatch.setattr("kvm_ioctls._run.ioctl", lambda handle, *_: next(remaining)(handle))

    return install


def test_a_request_that_a_signal_interrupts_is_made_again(fake):
    """EINTR is never seen."""
    descriptor = Descriptor(os.open("/dev/null", os.O_RDWR), "Null")
    fake(lambda _: -errno.EINTR, lambda _: -errno.EINTR, lambda _: 7)
    assert descriptor.ioctl("KVM_GET_API_VERSION") == 7
    descriptor.close()


def test_a_handler_that_closes_it_meanwhile(fake, monkeypatch):
    """The request is not made again with a number that is somebody else's by then."""
    descriptor = Descriptor(os.open("/dev/null", os.O_RDWR), "Null")
    real = _run.ioctl

    def close(handle: Descriptor) -> int:
        handle.close()
        monkeypatch.setattr("kvm_ioctls._run.ioctl", real)
        return -errno.EINTR

    fake(close)
    with pytest.raises(KvmClosedError, match="Null"):
        descriptor.ioctl("KVM_GET_API_VERSION")


def test_a_handle_is_made_once():
    """A second time would lose the first number."""
    descriptor = Descriptor(os.open("/dev/null", os.O_RDWR), "Null")
    with pytest.raises(TypeError, match="made once"):
        _run.Handle.__init__(descriptor, 0)
    assert descriptor.close()
    assert not descriptor.close()
    assert descriptor.number == -1


def test_closing_what_somebody_else_has_closed():
    """Is an OSError, as it is with files."""
    number = os.open("/dev/null", os.O_RDWR)
    descriptor = Descriptor(number, "Null")
    os.close(number)
    with pytest.raises(OSError, match="Bad file"):
        descriptor.close()


@pytest.mark.kvm
def test_a_number_is_free_when_its_last_user_is_out(start):
    """A thread that waits in the kernel keeps the number from becoming another file's.

    The wrong behaviour: the request that it was about to make went to that file.
    """
    vcpu = start("ebfe")
    number = os.dup(vcpu.fileno())
    other = Descriptor(number, "Other")
    runner = threading.Thread(target=vcpu.run)
    runner.start()
    time.sleep(0.05)
    waiting = threading.Thread(target=other.ioctl_buffer, args=("KVM_GET_REGS", bytearray(144)))
    waiting.start()  # until the vCPU is out of the guest
    time.sleep(0.05)
    assert other.close()
    with pytest.raises(KvmClosedError):
        other.fileno()
    os.fstat(number)
    vcpu.kick()
    runner.join()
    waiting.join()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)


@pytest.mark.kvm
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_descriptor_is_lost_to_a_signal(kvm):
    """An exception from its handler, at any moment, leaves machines with an owner.

    The wrong behaviour: between the ioctl and the object the number was nobody's.
    """
    before = descriptors()

    def create() -> None:
        with kvm.create_vm():
            pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert interrupt_often(create, seconds=2) > 20
    assert descriptors() == before


@pytest.mark.kvm
def test_memory_is_the_guest_s_exactly_while_its_slot_is_there(vm):
    """An exception from a signal's handler comes before a slot changes, or after all of it has.

    The wrong behaviour: the kernel had the slot, the memory could be closed, and the guest wrote
    into whatever was mapped there next.
    """
    memory = mmap(-1, 0x1000)
    differs = []

    def add_and_delete() -> None:
        vm.set_user_memory_region(1, 0x100000, memory)
        vm.set_user_memory_region(1, 0x100000, None)

    def compare() -> None:
        known = vm._slots.size(1) != 0
        there = True
        try:
            vm.set_user_memory_region(1, 0, None)
        except KvmError:  # deleting no slot
            there = False
        differs.append(known != there)

    interrupt_often(add_and_delete, seconds=2, then=compare)
    assert len(differs) > 20
    assert not any(differs)
    memory.close()
