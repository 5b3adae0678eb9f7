"""The real /dev/kvm: interrupt controllers, timers, lines and what follows them."""

from __future__ import annotations

import errno
import os
import threading
from mmap import mmap

import pytest

from kvm_ioctls import Cap, Hlt, IoOut, IrqRoutingEntry, KvmError, Pio, Regs

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(30)]


@pytest.fixture
def board(kvm):
    """A machine with memory, interrupt controllers and timer."""
    with kvm.create_vm() as made:
        made.set_user_memory_region(0, 0, mmap(-1, 0x2000))
        made.create_irq_chip()
        made.create_pit2()
        yield made


def test_what_became_of_an_interrupt(board):
    """The first edge on a line is noted, a masked one is not delivered."""
    assert isinstance(board.set_irq_line_status(4, True), int)
    board.set_irq_line(4, False)


def test_lines_without_controllers(vm):
    """Both requests say what is missing."""
    for call in vm.set_irq_line, vm.set_irq_line_status:
        with pytest.raises(KvmError) as caught:
            call(4, True)
        assert caught.value.errno == errno.ENXIO


def test_reinjection(board, vm):
    """It is a property of the timer."""
    board.reinject_control(False)
    board.reinject_control(True)
    with pytest.raises(KvmError, match="no in-kernel timer"):
        vm.reinject_control(True)


def test_timer_and_controllers_keep_their_state(board):
    """What was read can be written, and is read again."""
    pit, chip, clock = board.get_pit2(), board.get_irqchip(2), board.get_clock()
    chip.chip.ioapic.redirtbl[3].bits = 0x10031
    board.set_irqchip(chip)
    board.set_pit2(pit)
    clock.flags = 0
    board.set_clock(clock)
    assert board.get_irqchip(2).chip.ioapic.redirtbl[3].bits == 0x10031
    assert board.get_clock().clock >= clock.clock


def test_the_machine_s_time_stamp_rate(vm, needs):
    """Where the machine has one, it can be set to itself."""
    needs(Cap.VM_TSC_CONTROL)
    vm.set_tsc_khz(vm.get_tsc_khz())


def test_the_boot_processor(kvm):
    """It is chosen before the first vCPU, not after."""
    with kvm.create_vm() as vm:
        vm.set_boot_cpu_id(1)
        with vm.create_vcpu(0), pytest.raises(KvmError, match="before the first vCPU"):
            vm.set_boot_cpu_id(0)


def test_task_priority(start, needs):
    """Reporting is switched on and off."""
    needs(Cap.VAPIC)
    vcpu = start("f4")
    vcpu.tpr_access_reporting(True)
    vcpu.tpr_access_reporting(False)


def test_where_the_option_rom_keeps_the_priority(board, needs):
    """The address is accepted where there is a local APIC in the kernel."""
    needs(Cap.VAPIC)
    with board.create_vcpu(0) as vcpu:
        vcpu.set_vapic_addr(0x1000)


def test_hyper_v_s_signals(vm, needs):
    """A connection gets an eventfd, and loses it."""
    needs(Cap.HYPERV_EVENTFD)
    event = os.eventfd(0)
    vm.hyperv_eventfd(1, event)
    vm.hyperv_eventfd(1, None)
    os.close(event)


# Remaps the first PIC to vector 0x20, lets IRQ 4 through, and waits for interrupts.
WAIT_FOR_IRQ4 = "b011e620b020e621b004e621b001e621b0efe621fbf4ebfd"
VECTOR, HANDLER = 0x24, 0x1800


@pytest.fixture
def waiting(board):
    """A machine whose guest waits for IRQ 4; its handler writes to port 0x80."""
    memory = mmap(-1, 0x10000)
    memory[VECTOR * 4 : VECTOR * 4 + 4] = HANDLER.to_bytes(2, "little") + bytes(2)
    memory[HANDLER : HANDLER + 4] = bytes.fromhex("e680faf4")  # out 0x80, al; cli; hlt
    code = bytes.fromhex(WAIT_FOR_IRQ4)
    memory[0x1000 : 0x1000 + len(code)] = code
    board.set_user_memory_region(0, 0, None)
    board.set_user_memory_region(0, 0, memory)
    with board.create_vcpu(0) as vcpu:
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(Regs(rip=0x1000, rflags=2))
        yield board, vcpu


def handled(vcpu, raise_it) -> bool:
    """Whether the guest's handler runs once `raise_it` was called."""
    timers = [threading.Timer(0.1, raise_it), threading.Timer(10, vcpu.kick)]
    for timer in timers:
        timer.start()
    exit_ = vcpu.run()
    for timer in timers:
        timer.cancel()
        timer.join()
    return isinstance(exit_, IoOut) and exit_.port == 0x80


def test_a_line_reaches_the_guest(waiting):
    """Raising IRQ 4 wakes the guest and runs its handler."""
    vm, vcpu = waiting
    assert handled(vcpu, lambda: vm.set_irq_line(4, True))


def test_an_eventfd_reaches_the_guest(waiting):
    """A write to it is an interrupt; after unregistering it can be registered anew."""
    vm, vcpu = waiting
    event = os.eventfd(0)
    vm.register_irqfd(event, 4)
    with pytest.raises(KvmError, match="registered already"):
        vm.register_irqfd(event, 4)
    vm.unregister_irqfd(event, 4)
    vm.register_irqfd(event, 4)
    assert handled(vcpu, lambda: os.eventfd_write(event, 1))
    os.close(event)


def test_a_route_leads_elsewhere(waiting):
    """A table of one route: line 10 is the PIC's fourth pin."""
    vm, vcpu = waiting
    vm.set_gsi_routing([IrqRoutingEntry.to_irqchip(10, irqchip=0, pin=4)])
    assert handled(vcpu, lambda: vm.set_irq_line(10, True))


def test_messages_reach_the_guest(waiting):
    """A message to a local APIC that is switched on, directly and through a route."""
    vm, vcpu = waiting
    lapic = vcpu.get_lapic()
    lapic.set(0xF0, 0x1FF)  # SDM vol. 3 §11.9: bit 8 switches it on
    vcpu.set_lapic(lapic)
    assert handled(vcpu, lambda: vm.signal_msi(0xFEE0_0000, VECTOR))
    vm.set_gsi_routing([IrqRoutingEntry.to_msi(30, 0xFEE0_0000, VECTOR)])
    event = os.eventfd(0)
    vm.register_irqfd(event, 30)
    vcpu.set_regs(Regs(rip=0x1000, rflags=2))
    lapic = vcpu.get_lapic()
    lapic.regs[0x100:0x180] = bytes(0x80)  # the handler did not end the first one
    vcpu.set_lapic(lapic)
    assert handled(vcpu, lambda: os.eventfd_write(event, 1))
    os.close(event)


def test_an_ioeventfd_counts(vm, start):
    """Writes of the wanted value are counted; others, and other widths, are exits."""
    event = os.eventfd(0)
    vm.register_ioevent(event, Pio(0x80), 1, 7)
    # mov al, 7; out 0x80, al; out 0x80, al; mov al, 8; out 0x80, al; out 0x80, ax; hlt
    vcpu = start("b007e680e680b008e680e780f4")
    assert [len(vcpu.run().data) for _ in range(2)] == [1, 2]
    assert isinstance(vcpu.run(), Hlt)
    assert os.eventfd_read(event) == 2
    vm.unregister_ioevent(event, Pio(0x80), 1, 7)
    with pytest.raises(KvmError, match="same arguments"):
        vm.unregister_ioevent(event, Pio(0x80), 1, 7)
    os.close(event)
