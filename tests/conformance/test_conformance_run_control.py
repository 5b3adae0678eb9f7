"""Stopping a vCPU from outside: immediate_exit, kicks, signals; and running beside Python."""

from __future__ import annotations

import signal
import sys
import threading
import time

import guests
import pytest

from kvm_ioctls import Hlt, Interrupted, IoOut, Kicker, VcpuBusyError


class Later:
    """Calls `function` on another thread after `seconds`."""

    def __init__(self, seconds: float, function) -> None:
        self.timer = threading.Timer(seconds, function)

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.join()


def test_immediate_exit_comes_before_the_guest(machine):
    """The guest executes nothing, the flag is cleared, and the next run is a normal one."""
    machine.real_mode(guests.HLT_THEN_OUT)
    machine.vcpu.immediate_exit = True
    assert isinstance(machine.run(), Interrupted)
    assert machine.vcpu.get_regs().rip == 0x1000
    assert not machine.vcpu.immediate_exit
    assert isinstance(machine.run(), Hlt)


def test_immediate_exit_completes_input_that_is_under_way(machine):
    """The value of an IN is in the register before the vCPU is interrupted."""
    machine.real_mode(guests.PIO_IN_PARTIAL)
    machine.run().data[:] = b"\x77"
    machine.vcpu.immediate_exit = True
    assert isinstance(machine.run(), Interrupted)
    regs = machine.vcpu.get_regs()
    assert (regs.rax & 0xFF, regs.rip) == (0x77, 0x1008)


@pytest.mark.parametrize("mode", ["real", "long"])
def test_kicking_a_busy_guest(machine, mode):
    """A loop that never exits is left within a moment, and can be resumed."""
    start = machine.real_mode if mode == "real" else machine.long_mode
    start(guests.SPIN)
    for _ in range(3):
        with Later(0.02, machine.vcpu.kick):
            assert isinstance(machine.run(), Interrupted)
        assert machine.vcpu.get_regs().rip == 0x1000


def test_kicking_a_halted_guest(irq_machine):
    """A vCPU that waits in HLT for an interrupt is left too."""
    irq_machine.real_mode(guests.HLT_THEN_OUT)
    with Later(0.02, irq_machine.vcpu.kick):
        assert isinstance(irq_machine.run(), Interrupted)


def test_a_kick_before_run_is_not_lost_and_counts_once(machine):
    """Two kicks of a stopped vCPU interrupt the next run, and only that."""
    machine.real_mode(guests.HLT_THEN_OUT)
    machine.vcpu.kick()
    machine.vcpu.kick()
    assert isinstance(machine.run(), Interrupted)
    assert isinstance(machine.run(), Hlt)


@pytest.mark.parametrize("guest", ["OUT_FOREVER", "SPIN"])
def test_every_kick_is_answered_once(machine, guest):
    """Kicks that race with exits or end a loop: each gives exactly one Interrupted, none is lost.

    The wrong behaviour would be a wait that never ends, or more interruptions than kicks.
    """
    machine.real_mode(getattr(guests, guest))
    rounds, seen = 1000, 0
    answered = threading.Event()
    kicks = Kicker(machine.vcpu)

    def kick_and_wait() -> None:
        for _ in range(rounds):
            answered.clear()
            assert kicks.kick()
            assert answered.wait(5)
        machine.vcpu.kick()  # a guest that never leaves has to be left for good

    kicker = threading.Thread(target=kick_and_wait)
    kicker.start()
    while seen < rounds + 1:
        match machine.run():
            case Interrupted():
                seen += 1
                answered.set()
            case IoOut():
                pass
    kicker.join()
    machine.real_mode(guests.HLT_THEN_OUT)
    assert isinstance(machine.run(), Hlt)


def test_two_threads_get_each_exit_once(machine):
    """Whoever is refused gets VcpuBusyError; no exit is lost, repeated or torn.

    The wrong behaviour: a thread entered the guest while the other had not read its exit yet.
    """
    machine.real_mode(bytes.fromhex("40 e7e0 ebfb"))  # 1: inc ax; out 0xe0, ax; jmp 1b
    got, end = [], time.monotonic() + 0.5

    def run() -> None:
        while time.monotonic() < end and len(got) < 30_000:  # AX has 16 bits
            try:
                got.append(int.from_bytes(machine.run().data, "little"))
            except VcpuBusyError:
                pass
            except ValueError:  # the other thread's run() took the view back before it was read
                got.append(0)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=run) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    numbers = [number for number in got if number]
    assert len(set(numbers)) == len(numbers)
    assert int.from_bytes(machine.run().data, "little") == len(got) + 1


def test_a_kicker_outlives_its_vcpu(machine):
    """It says that there is nothing left to stop."""
    kicks = Kicker(machine.vcpu)
    machine.vcpu.close()
    assert not kicks.kick()


def test_a_signal_to_the_thread_interrupts_the_guest(machine):
    """Any signal that has a handler ends run(), and Python's handler is called."""
    machine.real_mode(guests.SPIN)
    got = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    target = threading.get_ident()
    try:
        with Later(0.02, lambda: signal.pthread_kill(target, signal.SIGUSR1)):
            assert isinstance(machine.run(), Interrupted)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert got == [signal.SIGUSR1]


def test_python_runs_beside_a_busy_guest(machine):
    """run() releases the GIL: this thread goes on while another one is in the guest."""
    machine.real_mode(guests.SPIN)
    exits = []
    runner = threading.Thread(target=lambda: exits.append(machine.run()))
    runner.start()
    for _ in range(20):
        time.sleep(0.001)
    assert runner.is_alive()
    machine.vcpu.kick()
    runner.join(5)
    assert isinstance(exits[0], Interrupted)


def test_a_vcpu_moves_between_threads(machine):
    """Made here, run there, kicked from here, run here."""
    machine.real_mode(guests.HLT_THEN_OUT)
    exits = []
    runner = threading.Thread(target=lambda: exits.append(type(machine.run())))
    runner.start()
    runner.join(5)
    assert exits == [Hlt]
    assert machine.run_to_hlt() == [(0xE0, b"A")]


def test_registers_set_at_an_exit_are_where_it_goes_on(machine):
    """An I/O exit can be left for another place: nothing of the old one is executed."""
    machine.real_mode(
        bytes.fromhex("e6e0 e6e1 c606006001 f4")
    )  # out; out; mov byte [0x6000], 1; hlt
    assert machine.next_out()[0] == 0xE0
    machine.put(0x1100, bytes.fromhex("b042 e6e2 f4"))  # mov al, 0x42; out; hlt
    regs = machine.vcpu.get_regs()
    regs.rip = 0x1100
    machine.vcpu.set_regs(regs)
    assert machine.next_out() == (0xE2, 0x42)
    assert machine.run_to_hlt() == []
    assert machine.memory[0x6000] == 0


def test_registers_got_at_an_exit_can_be_set_again(machine):
    """An identity round trip in the middle of an access changes nothing."""
    machine.real_mode(bytes.fromhex("b001 e6e0 fec0 e6e1 fec0 e6e2 f4"))  # out 1; out 2; out 3
    seen = []
    for _ in range(3):
        seen.append(machine.next_out())
        machine.vcpu.set_regs(machine.vcpu.get_regs())
        machine.vcpu.set_sregs(machine.vcpu.get_sregs())
    assert seen == [(0xE0, 1), (0xE1, 2), (0xE2, 3)]
    assert machine.run_to_hlt() == []


def test_a_mistake_in_a_with_statement_is_not_hidden_by_a_busy_vcpu(machine):
    """The vCPU cannot be closed, and the exception that matters says so in a note."""
    machine.real_mode(guests.SPIN)
    runner = threading.Thread(target=machine.vcpu.run)
    runner.start()
    time.sleep(0.1)
    try:
        with pytest.raises(KeyError) as caught, machine.vcpu:
            raise KeyError("the mistake")
        assert "the vCPU stays open" in caught.value.__notes__[0]
        with pytest.raises(VcpuBusyError), machine.vcpu:
            pass
    finally:
        machine.vcpu.kick()
        runner.join()
