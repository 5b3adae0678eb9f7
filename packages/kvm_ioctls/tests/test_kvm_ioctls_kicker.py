"""Kickers: they stop a vCPU exactly once, and outlive it."""

from __future__ import annotations

import errno
import gc
import signal
import threading
import time

import pytest

from kvm_ioctls import Hlt, Interrupted, Kicker, KvmClosedError, KvmError

SPIN_THEN_HLT = "eb02ebfef4"  # jmp 2f; 1: jmp 1b; 2: hlt
SPIN_AT = 0x1002
KICKS = 5000


class Fake:
    """Any hypervisor's vCPU: what a kicker sees of it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.kicks = 0

    def kick(self) -> None:
        if self.error is not None:
            raise self.error
        self.kicks += 1


def test_a_kick_is_the_vcpu_s():
    """One for one."""
    vcpu = Fake()
    kicker = Kicker(vcpu)
    assert kicker.kick()
    assert kicker.kick()
    assert vcpu.kicks == 2


def test_nothing_is_left_to_stop():
    """A vCPU that is closed, and one that is gone: the kicker keeps neither."""
    vcpu = Fake(KvmClosedError("VcpuFd 0"))
    kicker = Kicker(vcpu)
    assert not kicker.kick()
    vcpu.error = None
    del vcpu
    gc.collect()
    assert not kicker.kick()


def test_other_failures_are_not_hidden():
    """A kick that could not be delivered is an error, not an end."""
    vcpu = Fake(KvmError(errno.ESRCH, "tgkill"))
    with pytest.raises(KvmError, match="ESRCH"):
        Kicker(vcpu).kick()


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_thousands_of_kicks(start):
    """Each ends one run of a guest that never leaves by itself; afterwards none is left over.

    The wrong behaviour would be a wait that never ends (a kick was lost), or a HLT that does not
    come because a kick counts twice.
    """
    vcpu = start(SPIN_THEN_HLT, rip=SPIN_AT)
    kicker, answered, seen = Kicker(vcpu), threading.Semaphore(0), []

    def kick_and_wait() -> None:
        for number in range(KICKS):
            if number % 50 == 0:
                time.sleep(0.001)  # the others find the vCPU on its way in, these in the guest
            kicker.kick()
            if not answered.acquire(timeout=5):
                break

    thread = threading.Thread(target=kick_and_wait)
    thread.start()
    for _ in range(KICKS):
        seen.append(type(vcpu.run()))
        answered.release()
    thread.join()
    assert seen == [Interrupted] * KICKS
    regs = vcpu.get_regs()
    regs.rip = 0x1000
    vcpu.set_regs(regs)
    assert isinstance(vcpu.run(), Hlt)


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_kicks_from_many_threads_at_once(start):
    """A run ends however many kick it; one that nobody kicks does not end for that."""
    vcpu = start(SPIN_THEN_HLT, rip=SPIN_AT)
    kicker = Kicker(vcpu)
    threads = [
        threading.Thread(target=lambda: [kicker.kick() for _ in range(KICKS)]) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        kicker.kick()  # so that the last run ends too
        assert isinstance(vcpu.run(), Interrupted)
    for thread in threads:
        thread.join()
    regs = vcpu.get_regs()
    regs.rip = 0x1000
    vcpu.set_regs(regs)
    kicker.kick()  # one, on top of what may have come after the last run
    assert isinstance(vcpu.run(), Interrupted)
    assert isinstance(vcpu.run(), Hlt)


@pytest.mark.kvm
@pytest.mark.timeout(30)
def test_a_signal_s_handler_kicks_its_own_thread(start):
    """The handler runs after the run that the signal ended, so its kick ends the next one."""
    vcpu = start(SPIN_THEN_HLT, rip=SPIN_AT)
    kicker, answers = Kicker(vcpu), []
    former = signal.signal(signal.SIGALRM, lambda *_: answers.append(kicker.kick()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert isinstance(vcpu.run(), Interrupted)
        assert answers == [True]
        assert isinstance(vcpu.run(), Interrupted)
    finally:
        signal.signal(signal.SIGALRM, former)


@pytest.mark.kvm
@pytest.mark.timeout(60)
def test_kicking_while_it_is_closed(vm):
    """The answer is False from some moment on, and never an exception."""
    for number in range(50):
        vcpu = vm.create_vcpu(number)
        kicker, first, answers = Kicker(vcpu), threading.Event(), []

        def kick(kicker=kicker, first=first, answers=answers) -> None:
            while not answers or answers[-1]:
                answers.append(kicker.kick())
                first.set()

        thread = threading.Thread(target=kick)
        thread.start()
        assert first.wait(5)
        vcpu.close()
        thread.join(5)
        assert answers[0]
        assert not answers[-1]
