"""Real mode: port and memory-mapped I/O, HLT, interrupts by software."""

from __future__ import annotations

import guests
import pytest

from kvm_ioctls import Hlt, IoIn, IoOut, MmioRead, MmioWrite


def test_out_exits_carry_port_width_and_data(machine):
    """OUT of each width gives one IoOut with exactly the bytes written."""
    machine.real_mode(guests.PIO_WIDTHS)
    seen = []
    for _ in range(4):
        match machine.run():
            case IoOut(port, size, count, data):
                seen.append((port, size, count, bytes(data)))
    assert seen == [
        (0x3F8, 1, 1, b"\x11"),
        (0x3F8, 2, 1, b"\x11\x22"),
        (0x3F8, 4, 1, b"\x11\x22\x33\x44"),
        (0x80, 1, 1, b"\x11"),
    ]


def test_in_takes_what_the_vmm_leaves_in_the_exit(machine):
    """IN of each width gives one IoIn whose data becomes the guest's."""
    machine.real_mode(guests.PIO_WIDTHS)
    for _ in range(4):
        machine.run()
    for expected in (0x60, 1), (0x3F8, 2), (0x3F8, 4):
        match machine.run():
            case IoIn(port, size, 1, data):
                assert (port, size, len(data)) == (*expected, size)
                data[:] = bytes(range(0xA0, 0xA0 + size))
    assert isinstance(machine.run(), Hlt)
    assert machine.memory[0x500:0x508] == b"\xa0\x00\xa0\xa1\xa0\xa1\xa2\xa3"


def test_short_in_keeps_the_rest_of_eax(machine):
    """IN to AL and AX leaves the bits above alone."""
    machine.real_mode(guests.PIO_IN_PARTIAL)
    for data in (b"\x11", b"\x33\x22"):
        machine.run().data[:] = data
    assert isinstance(machine.run(), Hlt)
    assert machine.vcpu.get_regs().rax == 0xAAAA2233


def test_string_out_delivers_every_element_in_order(machine):
    """REP OUTS arrives complete and in order, in however many exits."""
    machine.real_mode(guests.PIO_STRING_OUT)
    machine.put(0x600, b"hello123456")
    outs = {1: b"", 2: b""}
    while isinstance(exit_ := machine.run(), IoOut):
        assert (exit_.port, len(exit_.data)) == (0x3F8, exit_.size * exit_.count)
        outs[exit_.size] += bytes(exit_.data)
    assert isinstance(exit_, Hlt)
    assert outs == {1: b"hello", 2: b"123456"}
    assert machine.vcpu.get_regs().rcx == 0


def test_string_in_fills_memory_in_both_directions(machine):
    """REP INS stores what the exits brought, upwards or, with DF, downwards."""
    machine.real_mode(guests.PIO_STRING_IN)
    values = iter(range(0x30, 0x60))
    while isinstance(exit_ := machine.run(), IoIn):
        for place in range(0, len(exit_.data), exit_.size):
            exit_.data[place : place + exit_.size] = bytes([next(values)]) * exit_.size
    assert isinstance(exit_, Hlt)
    assert machine.memory[0x600:0x605] == b"01234"
    assert machine.memory[0x610:0x614] == b"6655"


def test_mmio_exits_carry_address_width_and_data(machine):
    """Stores and loads where no memory is give MMIO exits of their width; INC gives both."""
    machine.real_mode(guests.MMIO_WIDTHS)
    machine.real_mode_segment("ds", 0x80000)
    seen = []
    while not isinstance(exit_ := machine.run(), Hlt):
        match exit_:
            case MmioWrite(address, data):
                seen.append(("write", address - 0x80000, bytes(data)))
            case MmioRead(address, data):
                seen.append(("read", address - 0x80000, len(data)))
                data[:] = bytes(range(0x50, 0x50 + len(data)))
    assert seen == [
        ("write", 0, b"\x11"),
        ("write", 2, b"\x11\x22"),
        ("write", 4, b"\x11\x22\x33\x44"),
        ("read", 0x10, 1),
        ("read", 0x12, 2),
        ("read", 0x14, 4),
        ("read", 0x20, 1),
        ("write", 0x20, b"\x51"),
    ]
    regs = machine.vcpu.get_regs()
    assert (regs.rbx, regs.rcx, regs.rdx) == (0x50, 0x5150, 0x53525150)


def test_hlt_leaves_rip_behind_it(machine):
    """Without an irqchip HLT is an exit, and the next run goes on behind it."""
    machine.real_mode(guests.HLT_THEN_OUT)
    assert isinstance(machine.run(), Hlt)
    assert machine.vcpu.get_regs().rip == 0x1001
    assert machine.run_to_hlt() == [(0xE0, b"A")]


def test_software_interrupt_and_iret(machine):
    """INT n calls through the vector table at 0, IRET returns behind it."""
    machine.real_mode(guests.INTERRUPT_SERVICE)
    machine.real_mode_handler(0x21, 0x1100, guests.OUT_AND_IRET)
    assert machine.run_to_hlt() == [(0xE0, b"\x11"), (0xE1, b"\x22")]


def test_divide_error_points_at_the_division(machine):
    """#DE is a fault: the saved IP is the DIV's own."""
    machine.real_mode(guests.DIVIDE_ERROR_REAL)
    machine.real_mode_handler(0, 0x1100, guests.HLT_THEN_OUT)
    assert isinstance(machine.run(), Hlt)
    regs = machine.vcpu.get_regs()
    assert regs.rip == 0x1101
    assert machine.memory[regs.rsp] + (machine.memory[regs.rsp + 1] << 8) == 0x1008


def test_code_that_the_vmm_changes_between_runs_is_what_runs(machine):
    """A write from outside to code that ran already takes effect."""
    machine.real_mode(guests.PATCHED)
    values = []
    for value in (1, 2, 3):
        machine.put(0x1001, bytes([value]))
        values += machine.run_to_hlt()
    assert values == [(0xE0, b"\1"), (0xE0, b"\2"), (0xE0, b"\3")]


def test_code_that_the_guest_changes_is_what_runs(machine):
    """A guest's write to the instruction ahead of it takes effect."""
    machine.real_mode(guests.SELF_MODIFYING)
    assert machine.run_to_hlt() == [(0xE0, b"\x77")]


def test_a_long_loop_ends_with_the_right_count(machine):
    """50,000 iterations are 50,000, whatever slices the hypervisor runs them in."""
    machine.real_mode(guests.LOOP_50K, rax=5)
    assert machine.run_to_hlt() == []
    regs = machine.vcpu.get_regs()
    assert (regs.rax, regs.rcx) == (5, 0)


@pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF])
def test_memory_is_shared_with_the_vmm(machine, value):
    """What the guest stores, the VMM reads; and the other way round."""
    machine.real_mode(guests.STORE_LOAD_REAL, rax=value, rbx=0x8123)
    assert machine.run_to_hlt() == []
    assert machine.memory[0x8123] == value
    assert machine.vcpu.get_regs().rcx == value
