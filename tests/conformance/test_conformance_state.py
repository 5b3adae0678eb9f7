"""State in and out: registers, control state that is refused, controllers, order of creation."""

from __future__ import annotations

import errno
import threading

import guests
import pytest

from kvm_ioctls import Cap, Hlt, KvmError, MpState, Regs

NAMES = [name for name in Regs.FIELDS if name not in {"rip", "rflags"}]


def test_api_version_and_capabilities(hypervisor):
    """Version 12, and what a VMM cannot do without."""
    assert hypervisor.get_api_version() == 12
    for cap in Cap.USER_MEMORY, Cap.IRQCHIP, Cap.IRQFD, Cap.IOEVENTFD, Cap.IMMEDIATE_EXIT:
        assert hypervisor.check_extension(cap) > 0, cap.name
    assert hypervisor.check_extension(0x7FFF) == 0
    assert 1 <= hypervisor.get_nr_vcpus() <= hypervisor.get_max_vcpus()
    assert hypervisor.get_nr_memslots() >= 32
    assert hypervisor.get_vcpu_mmap_size() >= 4096


def test_supported_cpuid(hypervisor):
    """Leaf 0 and 1 are there, and long mode is."""
    leaves = {entry.function: entry for entry in hypervisor.get_supported_cpuid()}
    assert leaves[0].eax >= 1
    assert leaves[0x80000001].edx & 1 << 29


def test_general_registers_round_trip(machine):
    """Every register keeps its own 64 bits."""
    regs = Regs(**{name: 0x0101_0101_0101_0101 * (n + 1) for n, name in enumerate(NAMES)})
    regs.rip, regs.rflags = 0x1234, 0x246
    machine.vcpu.set_regs(regs)
    assert machine.vcpu.get_regs() == regs


def test_reset_state(machine):
    """A new vCPU is at the reset vector (SDM vol. 3 §9.1.1)."""
    regs, sregs = machine.vcpu.get_regs(), machine.vcpu.get_sregs()
    assert (regs.rip, regs.rflags) == (0xFFF0, 2)
    assert (sregs.cs.selector, sregs.cs.base, sregs.cs.limit) == (0xF000, 0xFFFF0000, 0xFFFF)
    assert (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) == (0x60000010, 0, 0, 0)
    assert sregs.apic_base & 0xFFFFF900 == 0xFEE00900


def test_special_registers_round_trip(machine):
    """Setting what was got changes nothing, in long mode too."""
    machine.long_mode(guests.SPIN)
    sregs = machine.vcpu.get_sregs()
    machine.vcpu.set_sregs(sregs)
    assert machine.vcpu.get_sregs() == sregs


def test_long_mode_state_round_trips(machine):
    """Segments, tables and control registers come back as they were set."""
    machine.long_mode(guests.SPIN)
    wanted, got = machine.long_mode_sregs(), machine.vcpu.get_sregs()
    for name in ("cr0", "cr3", "cr4", "efer", "cs", "ds", "ss", "tr", "gdt", "idt"):
        assert getattr(got, name) == getattr(wanted, name), name


def test_task_priority_round_trips(irq_machine):
    """CR8 is the local APIC's task priority."""
    sregs = irq_machine.vcpu.get_sregs()
    sregs.cr8 = 5
    irq_machine.vcpu.set_sregs(sregs)
    assert irq_machine.vcpu.get_sregs().cr8 == 5
    assert irq_machine.vcpu.get_lapic().get(0x80) == 0x50


@pytest.mark.parametrize(
    "changes",
    [
        {"cr0": 0x80000010},
        {"cr0": 0x11, "efer": 0x500},
        {"cr0": 0x80000011, "efer": 0x500, "cr4": 0},
        {"cr4": 1 << 40},
        {"apic_base": 0xFEE00900 | 1 << 63},
    ],
    ids=["PG without PE", "LMA without PG", "LMA without PAE", "reserved CR4", "APIC base"],
)
def test_impossible_states_are_refused(machine, changes):
    """EINVAL, and the state stays what it was."""
    before = machine.vcpu.get_sregs()
    wanted = before.copy()
    for name, value in changes.items():
        setattr(wanted, name, value)
    with pytest.raises(KvmError) as caught:
        machine.vcpu.set_sregs(wanted)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_SET_SREGS", errno.EINVAL)
    assert machine.vcpu.get_sregs() == before


def test_registers_survive_a_run(machine):
    """What the guest does not touch is what was set."""
    machine.long_mode(guests.HLT_THEN_OUT)
    regs = Regs(**{name: 0x1111 * (n + 1) for n, name in enumerate(NAMES)}, rip=0x1000, rflags=2)
    machine.vcpu.set_regs(regs)
    assert isinstance(machine.run(), Hlt)
    regs.rip = 0x1001
    assert machine.vcpu.get_regs() == regs


def test_fpu_round_trips_after_the_first_run(machine):
    """Control word and registers come back; KVM leaves MXCSR out, in both directions."""
    machine.real_mode(guests.HLT_THEN_OUT)
    machine.run()
    fpu = machine.vcpu.get_fpu()
    fpu.fcw = 0x37F
    fpu.xmm[3][:] = bytes(range(16))
    machine.vcpu.set_fpu(fpu)
    got = machine.vcpu.get_fpu()
    assert (got.fcw, bytes(got.xmm[3])) == (0x37F, bytes(range(16)))


NEEDED = {"xsave": Cap.XSAVE, "xcrs": Cap.XCRS}


@pytest.mark.parametrize("what", ["xsave", "xcrs", "debugregs", "vcpu_events", "cpuid2"])
def test_what_was_got_can_be_set(hypervisor, machine, what):
    """An identity round trip, as a snapshot does."""
    if (cap := NEEDED.get(what)) and not hypervisor.check_extension(cap):
        pytest.skip(f"no {cap!r}")
    state = getattr(machine.vcpu, f"get_{what}")()
    getattr(machine.vcpu, f"set_{what}")(state)
    assert getattr(machine.vcpu, f"get_{what}")() == state


def test_debug_registers_round_trip(machine):
    """DR0 to DR3 keep their addresses."""
    debugregs = machine.vcpu.get_debugregs()
    debugregs.db = [0x1000, 0x2000, 0x3000, 0x4000]
    machine.vcpu.set_debugregs(debugregs)
    assert list(machine.vcpu.get_debugregs().db) == [0x1000, 0x2000, 0x3000, 0x4000]


def test_an_exception_from_outside(machine):
    """KVM_SET_VCPU_EVENTS injects #GP with its error code."""
    machine.long_mode(guests.SPIN)
    events = machine.vcpu.get_vcpu_events()
    events.exception.injected = 1
    events.exception.nr = 13
    events.exception.has_error_code = 1
    events.exception.error_code = 0x42
    machine.vcpu.set_vcpu_events(events)
    frame = machine.exception()
    assert (frame.vector, frame.error_code, frame.rip) == (13, 0x42, 0x1000)


def test_the_boot_processor_is_runnable(machine):
    """KVM_GET_MP_STATE of vCPU 0."""
    assert machine.vcpu.get_mp_state() is MpState.RUNNABLE
    machine.vcpu.set_mp_state(MpState.RUNNABLE)


def test_a_halted_processor_says_so(irq_machine):
    """With an irqchip HLT waits in the kernel, in the state HALTED."""
    irq_machine.real_mode(guests.HLT_THEN_OUT)
    timer = threading.Timer(0.02, irq_machine.vcpu.kick)
    timer.start()
    irq_machine.run()
    timer.join()
    assert irq_machine.vcpu.get_mp_state() is MpState.HALTED


def test_application_processors_wait(hypervisor, irq_machine):
    """A second vCPU starts uninitialized when there is an irqchip."""
    if hypervisor.get_max_vcpus() < 2:
        pytest.skip("one vCPU is all there is")
    with irq_machine.vm.create_vcpu(1) as second:
        assert second.get_mp_state() is MpState.UNINITIALIZED


def test_tsc_rate(machine):
    """KVM_GET_TSC_KHZ is a plausible rate."""
    assert 100_000 < machine.vcpu.get_tsc_khz() < 10_000_000


def test_lapic_round_trips(irq_machine):
    """The register page can be got and set; LVT entries keep what was set."""
    lapic = irq_machine.vcpu.get_lapic()
    assert lapic.get(0x20) == 0  # the ID of vCPU 0
    lapic.set(0xF0, 0x1FF)
    lapic.set(0x350, 0x700)  # LINT0: ExtINT
    irq_machine.vcpu.set_lapic(lapic)
    got = irq_machine.vcpu.get_lapic()
    assert (got.get(0xF0), got.get(0x350)) == (0x1FF, 0x700)


@pytest.mark.parametrize("chip", [0, 1, 2])
def test_irqchips_round_trip(irq_machine, chip):
    """Each chip's state can be got and set."""
    state = irq_machine.vm.get_irqchip(chip)
    assert state.chip_id == chip
    irq_machine.vm.set_irqchip(state)
    assert irq_machine.vm.get_irqchip(chip) == state


def test_there_are_three_chips(irq_machine):
    """EINVAL for a fourth."""
    with pytest.raises(KvmError) as caught:
        irq_machine.vm.get_irqchip(3)
    assert caught.value.errno == errno.EINVAL


def test_pit_round_trips(irq_machine):
    """The timer's channels come back."""
    irq_machine.vm.create_pit2()
    pit = irq_machine.vm.get_pit2()
    pit.channels[2].count = 0x1234
    pit.channels[2].mode = 3
    irq_machine.vm.set_pit2(pit)
    got = irq_machine.vm.get_pit2().channels[2]
    assert (got.count, got.mode) == (0x1234, 3)


def test_the_clock_runs_and_can_be_set(machine):
    """The guest's clock counts nanoseconds."""
    first = machine.vm.get_clock()
    assert machine.vm.get_clock().clock > first.clock
    first.clock, first.flags = 10**15, 0
    machine.vm.set_clock(first)
    assert 10**15 <= machine.vm.get_clock().clock < 10**15 + 10**10


# ----------------------------------------------------------------------------- order of creation


def _errno(function, *args) -> int:
    with pytest.raises(KvmError) as caught:
        function(*args)
    return caught.value.errno


def test_two_vcpus_with_one_id(machine):
    """EEXIST."""
    assert _errno(machine.vm.create_vcpu, 0) == errno.EEXIST


def test_a_vcpu_id_out_of_range(machine):
    """EINVAL."""
    assert _errno(machine.vm.create_vcpu, 1 << 20) == errno.EINVAL


def test_the_irqchip_comes_before_the_vcpus(machine):
    """EINVAL afterwards."""
    assert _errno(machine.vm.create_irq_chip) == errno.EINVAL


def test_one_irqchip(hypervisor):
    """EEXIST for the second, and for the second timer.

    Whether a timer can be without the irqchip differs: Linux 6.1 allows it, newer ones do not.
    """
    with hypervisor.create_vm() as vm:
        vm.create_irq_chip()
        assert _errno(vm.create_irq_chip) == errno.EEXIST
        vm.create_pit2()
        assert _errno(vm.create_pit2) == errno.EEXIST


def test_a_local_apic_needs_the_irqchip(machine):
    """EINVAL without."""
    assert _errno(machine.vcpu.get_lapic) == errno.EINVAL


def test_an_unknown_type_of_machine(hypervisor):
    """EINVAL."""
    assert _errno(hypervisor.create_vm, 77) == errno.EINVAL


@pytest.mark.parametrize("order", [("vcpu", "vm"), ("vm", "vcpu")])
def test_closing_in_any_order(hypervisor, order):
    """And again: close() is idempotent."""
    vm = hypervisor.create_vm()
    made = {"vm": vm, "vcpu": vm.create_vcpu(0)}
    for name in order * 2:
        made[name].close()


def test_after_close(hypervisor):
    """ValueError, not a crash and not somebody else's descriptor."""
    vm = hypervisor.create_vm()
    vcpu = vm.create_vcpu(0)
    vm.close()
    vcpu.close()
    for call in vcpu.run, vcpu.get_regs, vcpu.kick, vm.create_irq_chip:
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.parametrize(
    "mistake",
    [
        lambda machine: machine.vcpu.set_regs(machine.vcpu.get_sregs()),
        lambda machine: machine.vcpu.set_sregs(machine.vcpu.get_regs()),
        lambda machine: machine.vcpu.set_fpu(bytearray(4096)),
        lambda machine: machine.vcpu.set_cpuid2([0] * 100),
        lambda machine: machine.vcpu.set_cpuid2([Regs()]),
        lambda machine: machine.vm.set_gsi_routing([0] * 200),
        lambda machine: machine.vm.set_irqchip(machine.vm.get_clock()),
    ],
)
def test_structures_of_another_kind_are_refused(machine, mistake):
    """They are a TypeError: what follows a shorter one in memory was read as if it were a part."""
    with pytest.raises(TypeError):
        mistake(machine)
