"""Interrupts through the in-kernel controllers: irqfd, lines, messages, timers, PIC.

What is asserted is what every KVM does eventually; the exact instruction at which an interrupt
arrives, and the order of nested ones, is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time

import guests
import pytest

from kvm_ioctls import Hlt, Interrupted, IoOut, IrqRoutingEntry, KvmError

IOAPIC = 2
MSI_ADDRESS = 0xFEE0_0000
VECTOR = 0x51
PIN = 10
READY, HANDLED = 0xE1, 0xE0


@pytest.fixture
def eventfd():
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def waiting(irq_machine):
    """A long-mode guest that waits for `VECTOR`, with IOAPIC pin `PIN` leading there."""
    irq_machine.long_mode(guests.IOAPIC_LOOP, rbx=0x10 + 2 * PIN, rcx=VECTOR)
    irq_machine.handler(VECTOR, guests.EOI_HANDLER)
    assert irq_machine.next_out()[0] == READY
    return irq_machine


def _later(function, seconds: float = 0.01) -> threading.Timer:
    timer = threading.Timer(seconds, function)
    timer.start()
    return timer


def _nothing_more(machine) -> bool:
    """Whether the guest stays in HLT for a while."""
    timer = _later(machine.vcpu.kick, 0.05)
    exit_ = machine.run()
    timer.join()
    return isinstance(exit_, Interrupted)


# ------------------------------------------------------------------------------- long mode, APICs


def test_an_irqfd_raises_an_ioapic_interrupt(waiting, eventfd):
    """A write before run(), and one from another thread while the guest halts, both arrive."""
    waiting.vm.register_irqfd(eventfd, PIN)
    os.eventfd_write(eventfd, 1)
    assert waiting.next_out() == (HANDLED, 1)
    timer = _later(lambda: os.eventfd_write(eventfd, 1))
    assert waiting.next_out() == (HANDLED, 2)
    timer.join()
    assert _nothing_more(waiting)


def test_an_unregistered_irqfd_is_silent(waiting, eventfd):
    """After KVM_IRQFD_FLAG_DEASSIGN the eventfd is just an eventfd."""
    waiting.vm.register_irqfd(eventfd, PIN)
    waiting.vm.unregister_irqfd(eventfd, PIN)
    os.eventfd_write(eventfd, 1)
    assert _nothing_more(waiting)
    assert os.eventfd_read(eventfd) == 1


def test_an_irqfd_is_registered_once(waiting, eventfd):
    """EBUSY for the same eventfd again, EBADF for none."""
    waiting.vm.register_irqfd(eventfd, PIN)
    for fd, expected in (eventfd, errno.EBUSY), (-1, errno.EBADF):
        with pytest.raises(KvmError) as caught:
            waiting.vm.register_irqfd(fd & 0xFFFF_FFFF, PIN)
        assert caught.value.errno == expected


def test_edges_of_a_line(waiting):
    """An edge-triggered pin interrupts when it rises, not while it stays high."""
    for count in 1, 2, 3:
        waiting.vm.set_irq_line(PIN, True)
        assert waiting.next_out() == (HANDLED, count)
        waiting.vm.set_irq_line(PIN, False)
    assert _nothing_more(waiting)


def test_a_masked_pin_is_silent(irq_machine):
    """Bit 16 of the redirection entry masks the pin."""
    irq_machine.long_mode(guests.IOAPIC_LOOP, rbx=0x10 + 2 * PIN, rcx=VECTOR | 1 << 16)
    irq_machine.handler(VECTOR, guests.EOI_HANDLER)
    irq_machine.next_out()
    irq_machine.vm.set_irq_line(PIN, True)
    assert _nothing_more(irq_machine)


def test_the_vmm_reads_what_the_guest_programmed(waiting):
    """KVM_GET_IRQCHIP shows the redirection entry, and KVM_SET_IRQCHIP changes it."""
    chip = waiting.vm.get_irqchip(IOAPIC)
    assert chip.chip.ioapic.redirtbl[PIN].bits & 0x1FFFF == VECTOR
    waiting.handler(VECTOR + 1, guests.EOI_HANDLER)
    chip.chip.ioapic.redirtbl[PIN].bits = VECTOR + 1
    waiting.vm.set_irqchip(chip)
    waiting.vm.set_irq_line(PIN, True)
    assert waiting.next_out() == (HANDLED, 1)


def test_a_message_interrupts(waiting):
    """KVM_SIGNAL_MSI delivers the vector and says so."""
    assert waiting.vm.signal_msi(MSI_ADDRESS, VECTOR) > 0
    assert waiting.next_out() == (HANDLED, 1)


def test_a_message_to_nobody(waiting):
    """A destination that no APIC has takes no message: the answer is 0 or an error, never more."""
    result = 0
    with contextlib.suppress(KvmError):
        result = waiting.vm.signal_msi(MSI_ADDRESS | 5 << 12, VECTOR)
    assert result <= 0
    assert _nothing_more(waiting)


def test_a_gsi_leads_to_a_message(waiting, eventfd):
    """KVM_SET_GSI_ROUTING makes an irqfd send an MSI."""
    waiting.vm.set_gsi_routing([IrqRoutingEntry.to_msi(24, MSI_ADDRESS, VECTOR)])
    waiting.vm.register_irqfd(eventfd, 24)
    os.eventfd_write(eventfd, 1)
    assert waiting.next_out() == (HANDLED, 1)


def test_routing_replaces_the_table(waiting):
    """A GSI that the new table does not have leads nowhere."""
    waiting.vm.set_gsi_routing([IrqRoutingEntry.to_msi(24, MSI_ADDRESS, VECTOR)])
    waiting.vm.set_irq_line(PIN, True)
    assert _nothing_more(waiting)


def test_a_gsi_leads_to_another_pin(waiting):
    """An irqchip entry connects a GSI with any pin."""
    waiting.vm.set_gsi_routing([IrqRoutingEntry.to_irqchip(3, IOAPIC, PIN)])
    waiting.vm.set_irq_line(3, True)
    assert waiting.next_out() == (HANDLED, 1)


def test_one_shot_timer(irq_machine):
    """The local APIC's timer interrupts once."""
    irq_machine.long_mode(guests.LAPIC_TIMER, rbx=VECTOR, rcx=1_000_000)
    irq_machine.handler(VECTOR, guests.EOI_HANDLER)
    assert irq_machine.next_out() == (HANDLED, 1)
    assert _nothing_more(irq_machine)


def test_periodic_timer(irq_machine):
    """In periodic mode it goes on; its clock is 1 GHz, so 2,000,000 counts are 2 ms."""
    irq_machine.long_mode(guests.LAPIC_TIMER, rbx=VECTOR | 1 << 17, rcx=2_000_000)
    irq_machine.handler(VECTOR, guests.EOI_HANDLER)
    begin = time.monotonic_ns()
    for count in range(1, 11):
        assert irq_machine.next_out() == (HANDLED, count)
    assert time.monotonic_ns() - begin > 9 * 2_000_000 * 0.9


def test_task_priority_holds_interrupts_back(irq_machine):
    """A message of a lower class than CR8 waits until CR8 sinks."""
    irq_machine.long_mode(guests.TASK_PRIORITY)
    irq_machine.handler(VECTOR, guests.EOI_HANDLER)
    assert irq_machine.next_out()[0] == READY
    irq_machine.vm.signal_msi(MSI_ADDRESS, VECTOR)
    assert irq_machine.next_out()[0] == 0xE2
    assert irq_machine.next_out() == (HANDLED, 1)


def test_interrupts_wait_for_sti_and_hlt_is_not_missed(irq_machine):
    """Pending with IF clear: delivered after STI's shadow, so HLT wakes up at once."""
    irq_machine.long_mode(guests.PENDING_THEN_STI_HLT)
    irq_machine.handler(VECTOR, guests.EOI_HANDLER)
    assert irq_machine.next_out()[0] == 0xE1
    irq_machine.vm.signal_msi(MSI_ADDRESS, VECTOR)
    assert irq_machine.next_out()[0] == 0xE2
    assert irq_machine.next_out() == (HANDLED, 1)
    assert irq_machine.next_out()[0] == 0xE3


def test_the_handler_s_return_is_to_the_interrupted_place(waiting):
    """After the handler the guest is back in its HLT with IF set and its stack as before."""
    waiting.vm.signal_msi(MSI_ADDRESS, VECTOR)
    waiting.next_out()
    assert _nothing_more(waiting)
    regs = waiting.vcpu.get_regs()
    assert regs.rsp == 0x7000
    assert regs.rflags & 0x200


def test_nmi(irq_machine):
    """KVM_NMI runs vector 2, even with IF clear."""
    irq_machine.long_mode(guests.SPIN)
    irq_machine.handler(2, guests.NMI_HANDLER)
    irq_machine.vcpu.nmi()
    assert irq_machine.next_out()[0] == HANDLED


def test_an_interrupt_wakes_the_guest_from_another_thread(waiting):
    """A hundred messages from a thread while the guest halts: none is lost."""
    rounds = 100
    handled = threading.Semaphore(0)

    def send() -> None:
        for _ in range(rounds):
            waiting.vm.signal_msi(MSI_ADDRESS, VECTOR)
            assert handled.acquire(timeout=5)

    sender = threading.Thread(target=send)
    sender.start()
    for count in range(1, rounds + 1):
        assert waiting.next_out() == (HANDLED, count & 0xFF)
        handled.release()
    sender.join()


# -------------------------------------------------------------------------- real mode, PIC and PIT


@pytest.mark.parametrize("line", [1, 4, 7])
def test_the_pic_in_real_mode(irq_machine, line):
    """A line of the master PIC becomes its vector; after EOI the next edge comes too."""
    irq_machine.real_mode(guests.PIC_REAL_MODE, rbx=0xFF & ~(1 << line))
    irq_machine.real_mode_handler(0x20 + line, 0x1100, guests.PIC_HANDLER)
    assert irq_machine.next_out()[0] == READY
    for _ in range(3):
        irq_machine.vm.set_irq_line(line, True)
        assert irq_machine.next_out() == (HANDLED, 0x20)
        irq_machine.vm.set_irq_line(line, False)


def test_a_masked_line_of_the_pic(irq_machine):
    """OCW1 masks lines; the request stays and comes when the mask is lifted."""
    irq_machine.real_mode(guests.PIC_REAL_MODE, rbx=0xFF)
    irq_machine.real_mode_handler(0x24, 0x1100, guests.PIC_HANDLER)
    assert irq_machine.next_out()[0] == READY
    irq_machine.vm.set_irq_line(4, True)
    assert _nothing_more(irq_machine)
    chip = irq_machine.vm.get_irqchip(0)
    assert chip.chip.pic.irq_base == 0x20
    assert chip.chip.pic.irr & 0x10


def test_the_pit_through_the_pic(irq_machine):
    """Counter 0 in mode 2 interrupts on line 0 again and again."""
    irq_machine.vm.create_pit2()
    irq_machine.real_mode(guests.PIT_REAL_MODE + guests.PIC_REAL_MODE, rbx=0xFE)
    irq_machine.real_mode_handler(0x20, 0x1100, guests.PIC_HANDLER)
    assert irq_machine.next_out()[0] == READY
    for _ in range(3):
        assert irq_machine.next_out() == (HANDLED, 0x20)
    assert irq_machine.vm.get_pit2().channels[0].count in {11932, 11933}


def test_interrupt_without_an_irqchip(machine):
    """KVM_INTERRUPT delivers a vector to a guest with IF set."""
    machine.real_mode(guests.HLT_THEN_OUT, rflags=0x202, rax=0x77)
    machine.real_mode_handler(0x40, 0x1100, guests.OUT_AND_IRET)
    machine.vcpu.interrupt(0x40)
    assert machine.next_out() == (HANDLED, 0x77)
    assert isinstance(machine.run(), Hlt)


def test_interrupts_come_from_the_irqchip_alone(irq_machine):
    """With an irqchip KVM_INTERRUPT is ENXIO; without one KVM_IRQ_LINE is."""
    with pytest.raises(KvmError) as caught:
        irq_machine.vcpu.interrupt(0x40)
    assert caught.value.errno == errno.ENXIO


def test_lines_need_an_irqchip(machine):
    """KVM_IRQ_LINE without an irqchip is ENXIO."""
    with pytest.raises(KvmError) as caught:
        machine.vm.set_irq_line(4, True)
    assert caught.value.errno == errno.ENXIO


def test_irqfds_need_an_irqchip(machine, eventfd):
    """KVM_IRQFD without an irqchip is EINVAL."""
    with pytest.raises(KvmError) as caught:
        machine.vm.register_irqfd(eventfd, 4)
    assert caught.value.errno == errno.EINVAL


def test_the_out_in_a_handler_is_an_exit_like_any(waiting):
    """The suite's handler reports by IoOut of one byte (a test of the tests)."""
    waiting.vm.signal_msi(MSI_ADDRESS, VECTOR)
    exit_ = waiting.run()
    assert isinstance(exit_, IoOut)
    assert (exit_.port, exit_.size) == (HANDLED, 1)
