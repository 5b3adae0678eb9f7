"""PCI interrupts on the machine's side: shared lines, messages as GSIs."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_ioctls import KvmError
from vm_allocator import GsiAllocator
from vmm_reference.pci.intx import IntxLine
from vmm_reference.pci.messages import GsiRoutes, IrqfdVector


class Machine:
    """Notes levels, routes and irqfds; refuses messages to `refused`."""

    def __init__(self, refused=None):
        self.levels = []
        self.tables = []
        self.irqfds = {}
        self.refused = refused

    def set_irq_line(self, gsi, active):
        self.levels.append((gsi, active))

    def set_gsi_routing(self, entries):
        messages = {
            entry.gsi: (entry.u.msi.address_hi << 32 | entry.u.msi.address_lo, entry.u.msi.data)
            for entry in entries
            if entry.type == 2
        }
        if any(address == self.refused for address, _ in messages.values()):
            raise KvmError(errno.EINVAL, "KVM_SET_GSI_ROUTING")
        self.tables.append((entries, messages))

    def register_irqfd(self, fd, gsi):
        if len(self.irqfds) == 3:
            raise KvmError(errno.EINVAL, "KVM_IRQFD")
        self.irqfds[gsi] = fd

    def unregister_irqfd(self, fd, gsi):
        assert self.irqfds.pop(gsi) == fd


@pytest.fixture
def machine():
    return Machine()


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans())))
def test_a_line_is_active_while_any_pin_is(changes):
    """It changes with the first pin and the last, and is told nothing else."""
    machine = Machine()
    line = IntxLine(machine, 17)
    pins = [line.pin() for _ in range(3)]
    active, levels = set(), []
    for pin, level in changes:
        before = bool(active)
        (active.add if level else active.discard)(pin)
        pins[pin].set_level(level)
        if bool(active) != before:
            levels.append((17, level))
        assert machine.levels == levels


def test_the_table_keeps_the_lines(machine):
    """GSIs 0 to 23 lead to the IOAPIC, 0 to 15 to the PICs, too, as in a new machine."""
    GsiRoutes(machine).set_message(24, 0xFEE0_1000, 0x31)
    [(entries, messages)] = machine.tables
    pins = {
        (entry.gsi, entry.u.irqchip.irqchip, entry.u.irqchip.pin)
        for entry in entries
        if entry.type == 1
    }
    expected = {(gsi, 2, gsi) for gsi in range(24)}
    expected |= {(gsi, gsi // 8, gsi % 8) for gsi in range(16)}
    assert pins == expected
    assert messages == {24: (0xFEE0_1000, 0x31)}
    assert len(entries) == 41


def test_messages_change_and_go(machine):
    """Each change tells the whole table; removing what is not there tells nothing."""
    routes = GsiRoutes(machine)
    routes.set_message(24, 0xFEE0_1000, 0x31)
    routes.set_message(25, 0xFEE0_2000, 0x32)
    routes.set_message(24, 0xFEE0_3000, 0x33)
    assert machine.tables[-1][1] == {24: (0xFEE0_3000, 0x33), 25: (0xFEE0_2000, 0x32)}
    routes.remove(24)
    assert machine.tables[-1][1] == {25: (0xFEE0_2000, 0x32)}
    routes.remove(24)
    assert len(machine.tables) == 4


def test_a_message_that_the_hypervisor_refuses_goes_nowhere():
    """The guest chose it; the others stay, and the machine lives."""
    machine = Machine(refused=0x1234)
    routes = GsiRoutes(machine)
    routes.set_message(24, 0xFEE0_1000, 0x31)
    routes.set_message(25, 0x1234, 0x32)
    assert machine.tables[-1][1] == {24: (0xFEE0_1000, 0x31)}
    routes.set_message(24, 0x1234, 0x31)
    assert machine.tables[-1][1] == {}


def test_a_vector_is_an_irqfd(machine):
    """Its own GSI behind the pins, and an eventfd that carries the edges."""
    gsis = GsiAllocator()
    vector = IrqfdVector(machine, gsis, GsiRoutes(machine))
    assert vector.gsi == 24
    vector.trigger()
    vector.trigger()
    assert os.eventfd_read(machine.irqfds[24]) == 2
    vector.set_message(0xFEE0_0000, 0x41)
    assert machine.tables[-1][1] == {24: (0xFEE0_0000, 0x41)}
    vector.close()
    vector.close()
    assert machine.tables[-1][1] == {}
    assert machine.irqfds == {}
    assert gsis.allocate_msi() == 24


def test_a_vector_that_cannot_be_leaves_nothing(machine):
    """A refused irqfd gives its GSI back, and no descriptor stays open."""
    gsis, routes = GsiAllocator(), GsiRoutes(machine)
    vectors = [IrqfdVector(machine, gsis, routes) for _ in range(3)]
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    with pytest.raises(KvmError):
        IrqfdVector(machine, gsis, routes)
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208
    assert gsis.allocate_msi() == 27
    for vector in vectors:
        vector.close()
