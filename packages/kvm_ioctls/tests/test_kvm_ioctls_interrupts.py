"""The real /dev/kvm: interrupt controllers, timers, lines and what follows them."""

from __future__ import annotations

import errno
import os
from mmap import mmap

import pytest

from kvm_ioctls import Cap, KvmError

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
