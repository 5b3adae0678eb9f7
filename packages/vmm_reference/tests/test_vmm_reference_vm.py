"""A virtual machine's life: made in KVM's order, run, ended for one reason, taken apart."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from kvm_ioctls import Cap
from vmm_reference import (
    ConsoleConfig,
    ConsoleMode,
    CpusConfig,
    EndKind,
    HostIo,
    HypervisorChoice,
    HypervisorUnavailable,
    MemoryConfig,
    OpenHypervisor,
    OptionError,
    PayloadConfig,
    SerialConfig,
    SerialMode,
    UsageError,
    VirtioTransport,
    Vm,
    VmConfig,
    VmExit,
    VmStateError,
)

MIB = 1 << 20

POWER_OFF = bytes.fromhex("ba00060000 b034 ee f4")  # mov $0x600, %edx; mov $0x34, %al; out; hlt
RESET_BY_ACPI = bytes.fromhex("ba02060000 b001 ee f4")
RESET_BY_KEYBOARD = bytes.fromhex("b0fe e664 f4")
PANIC = bytes.fromhex("ba05050000 b001 ee f4")
TRIPLE_FAULT = bytes.fromhex("0f011c2500000000 0f0b")  # lidt 0; ud2
PANIC_THEN_RESET = PANIC[:-1] + RESET_BY_KEYBOARD
SPIN = bytes.fromhex("ebfe")
# mov $0x3f8, %edx; mov $'h', %al; out; mov $'i', %al; out; then power off
HELLO = bytes.fromhex("baf8030000 b068 ee b069 ee") + POWER_OFF
# Assert RTS (0x3fc), wait for a byte (LSR bit 0), send it back, power off.
ECHO = bytes.fromhex("bafc030000 b002 ee bafd030000 ec a801 74fb baf8030000 ec ee") + POWER_OFF
# Send RSI's zero page field acpi_rsdp_addr (offset 0x70, low 4 bytes) as they are.
SHOW_RSDP = bytes.fromhex("8d7670 b904000000 baf8030000 f36e") + POWER_OFF


@pytest.fixture(params=["soft", "kvm"])
def choice(request):
    """Each hypervisor; this host's KVM must only be able to run a few simple instructions."""
    if request.param == "kvm":
        request.getfixturevalue("kvm_device")
    return HypervisorChoice(request.param)


@pytest.fixture
def run(elf_kernel, choice):
    """A function that runs machine code and returns the end and what it printed."""

    def run_code(code, **options):
        output = bytearray()
        io = HostIo(stdin=options.pop("stdin", None), console=output.extend)
        with Vm(make_config(elf_kernel(code), hypervisor=choice, **options), io=io) as vm:
            end = vm.run()
            return end, bytes(output), vm

    return run_code


def make_config(kernel, memory=64 * MIB, **options):
    return VmConfig(payload=PayloadConfig(kernel=kernel), memory=MemoryConfig(memory), **options)


@pytest.mark.parametrize(
    ("code", "kind", "number"),
    [
        pytest.param(POWER_OFF, EndKind.POWERED_OFF, 0, id="poweroff"),
        pytest.param(RESET_BY_ACPI, EndKind.RESET, 32, id="acpi-reset"),
        pytest.param(RESET_BY_KEYBOARD, EndKind.RESET, 32, id="keyboard-reset"),
        pytest.param(TRIPLE_FAULT, EndKind.TRIPLE_FAULT, 33, id="triple-fault"),
        pytest.param(PANIC_THEN_RESET, EndKind.PANIC, 34, id="panic-then-reset"),
    ],
)
def test_guest_ends(run, code, kind, number):
    """Each way in which a guest ends has its own kind and code."""
    end, _output, vm = run(code)
    assert end.kind is kind
    assert vm.exit_code == number


def test_panicked_guest_that_hangs_is_ended(run, monkeypatch):
    """A guest that panics and then stays has its time to speak, and is ended."""
    monkeypatch.setattr("vmm_reference.power_requests._PANIC_GRACE_NS", 50_000_000)
    end, _output, _vm = run(PANIC)
    assert end.kind is EndKind.PANIC


def test_serial_output(run):
    """What the guest writes to COM1 reaches the console, all of it."""
    end, output, _vm = run(HELLO)
    assert output == b"hi"
    assert end.kind is EndKind.POWERED_OFF


def test_serial_input(run, pipe):
    """What is typed reaches the guest when it has opened its port."""
    os.write(pipe[1], b"Q")
    _end, output, _vm = run(ECHO, stdin=pipe[0])
    assert output == b"Q"


def test_rsi_points_to_the_zero_page(run):
    """The kernel finds the ACPI root pointer through RSI."""
    _end, output, _vm = run(SHOW_RSDP)
    assert output == (0xE0000).to_bytes(4, "little")


def test_serial_file(run, tmp_path):
    """`file` gets the output, in place of what was in the file."""
    path = tmp_path / "console"
    path.write_bytes(b"something longer than the output")
    run(HELLO, serial=SerialConfig(SerialMode.FILE, path))
    assert path.read_bytes() == b"hi"


@pytest.mark.parametrize("mode", [SerialMode.OFF, SerialMode.NULL])
def test_no_console(run, mode):
    """Without a port, or with nothing behind it, the guest's writes vanish."""
    end, output, _vm = run(HELLO, serial=SerialConfig(mode))
    assert output == b""
    assert end.kind is EndKind.POWERED_OFF


def test_stop_ends_a_spinning_guest(elf_kernel, choice):
    """Any thread can end a guest that never exits, soon."""
    with Vm(make_config(elf_kernel(SPIN), hypervisor=choice), io=HostIo(stdin=None)) as vm:
        vm.boot()
        assert vm.wait(30_000_000) is None
        started = time.monotonic()
        threading.Thread(target=vm.stop).start()
        assert vm.wait() == VmExit(EndKind.STOPPED)
    assert time.monotonic() - started < 5


def test_signal_that_another_thread_takes_is_not_slept_over(elf_kernel, choice):
    """A signal that the kernel gives to a vCPU's thread wakes the main thread all the same."""
    before = signal.signal(signal.SIGUSR1, lambda *_: vm.stop(VmExit.by_signal(10)))
    try:
        with Vm(make_config(elf_kernel(SPIN), hypervisor=choice), io=HostIo(stdin=None)) as vm:
            vm.boot()
            (vcpu,) = [thread for thread in threading.enumerate() if thread.name == "vcpu0"]
            arguments = (vcpu.ident, signal.SIGUSR1)
            timer = threading.Timer(0.05, signal.pthread_kill, arguments)
            timer.start()
            assert vm.wait(10_000_000_000) == VmExit.by_signal(10)
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_wait_gives_up_in_time(elf_kernel, choice):
    """Waiting with a limit ends no sooner and not much later."""
    with Vm(make_config(elf_kernel(SPIN), hypervisor=choice), io=HostIo(stdin=None)) as vm:
        vm.boot()
        started = time.monotonic_ns()
        assert vm.wait(20_000_000) is None
        assert 20_000_000 <= time.monotonic_ns() - started < 5_000_000_000


def test_close_ends_a_running_guest(elf_kernel, choice):
    """Leaving the block stops what is running, and no thread stays."""
    before = threading.active_count()
    with Vm(make_config(elf_kernel(SPIN), hypervisor=choice), io=HostIo(stdin=None)) as vm:
        vm.boot()
    assert vm.end == VmExit(EndKind.STOPPED)
    assert threading.active_count() == before


def test_no_descriptor_is_left(elf_kernel, choice):
    """A machine gives back every descriptor, run after run."""
    kernel = elf_kernel(POWER_OFF)
    counts = []
    for _ in range(3):
        with Vm(make_config(kernel, hypervisor=choice), io=HostIo(stdin=None)) as vm:
            vm.run()
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[1] == counts[2]


def test_first_reason_wins():
    """What ended the machine first is how it ended."""
    with Vm(VmConfig()) as vm:
        vm.stop(VmExit(EndKind.RESET))
        vm.stop(VmExit.by_signal(15))
        assert vm.wait() == VmExit(EndKind.RESET)


def test_stop_before_boot(fake_hypervisor, elf_kernel, calls):
    """A machine that is stopped while it is built does not start its guest."""
    opened = OpenHypervisor(fake_hypervisor, soft=False)
    with Vm(make_config(elf_kernel(SPIN)), io=HostIo(stdin=None), hypervisor=opened) as vm:
        vm.build()
        vm.stop(VmExit.by_signal(15))
        assert vm.run() == VmExit.by_signal(15)
    assert "vcpu0.run" not in {name for name, *_ in calls}


def test_machine_is_made_in_kvms_order(fake_hypervisor, elf_kernel, calls):
    """Capabilities, VM, memory, TSS and identity map, irqchip, PIT, lines, then vCPUs."""
    config = make_config(elf_kernel(SPIN), memory=(3 << 30) + MIB, cpus=CpusConfig(2))
    opened = OpenHypervisor(fake_hypervisor, soft=False)
    with Vm(config, io=HostIo(stdin=None), hypervisor=opened) as vm:
        vm.build()
        made = list(calls)
    names = [name for name, *_ in made]
    start = names.index("create_vm")
    assert set(names[:start]) == {"check_extension"}
    assert made[start + 1 : start + 7] == [
        ("set_user_memory_region", 0, 0, 3 << 30),
        ("set_user_memory_region", 1, 4 << 30, MIB),
        ("set_tss_address", 0xFFFB_D000),
        ("set_identity_map_address", 0xFFFB_C000),
        ("create_irq_chip",),
        ("create_pit2", 1),
    ]
    (irqfd,) = [call for call in made if call[0] == "register_irqfd"]
    assert irqfd[2] == 4
    first = names.index("create_vcpu")
    assert names.index("register_irqfd") < first
    assert names[first:] == [
        "create_vcpu",
        "vcpu0.set_cpuid2",
        "vcpu0.set_msrs",
        "vcpu0.set_regs",
        "vcpu0.set_fpu",
        "vcpu0.set_sregs",
        "vcpu0.set_lapic",
        "create_vcpu",
        "vcpu1.set_cpuid2",
        "vcpu1.set_msrs",
        "vcpu1.set_fpu",
        "vcpu1.set_lapic",
    ]


def test_machine_is_taken_apart_in_reverse(fake_hypervisor, elf_kernel, calls):
    """VCPUs go first, then interrupt lines, then the machine; a given hypervisor stays open."""
    opened = OpenHypervisor(fake_hypervisor, soft=False)
    config = make_config(elf_kernel(SPIN), cpus=CpusConfig(2))
    with Vm(config, io=HostIo(stdin=None), hypervisor=opened) as vm:
        vm.build()
        calls.clear()
    assert [name for name, *_ in calls if "kick" not in name] == [
        "vcpu1.close",
        "vcpu0.close",
        "unregister_irqfd",
        "close",
    ]


def test_missing_capabilities_are_named(make_fake_hypervisor, elf_kernel):
    """A hypervisor that cannot be used says what it lacks."""
    opened = OpenHypervisor(make_fake_hypervisor(Cap.PIT2, Cap.IRQFD), soft=False)
    with (
        Vm(make_config(elf_kernel(SPIN)), hypervisor=opened) as vm,
        pytest.raises(HypervisorUnavailable, match="PIT2, IRQFD"),
    ):
        vm.build()


def test_too_many_processors(fake_hypervisor, elf_kernel):
    """More processors than the hypervisor runs are refused by number."""
    opened = OpenHypervisor(fake_hypervisor, soft=False)
    config = make_config(elf_kernel(SPIN), cpus=CpusConfig(3))
    with (
        Vm(config, hypervisor=opened) as vm,
        pytest.raises(OptionError, match="--cpus 'boot=3': this hypervisor runs at most 2"),
    ):
        vm.build()


def test_memory_beyond_the_host(fake_hypervisor, elf_kernel):
    """More memory than the host has is refused before anything is mapped."""
    opened = OpenHypervisor(fake_hypervisor, soft=False)
    with (
        Vm(make_config(elf_kernel(SPIN), memory=1 << 45), hypervisor=opened) as vm,
        pytest.raises(OptionError, match="--memory 'size=32T': this host has no more than"),
    ):
        vm.build()


def test_failed_build_leaves_nothing(fake_hypervisor, tmp_path, calls):
    """An error while building closes what had been made; the machine is of no further use."""
    opened = OpenHypervisor(fake_hypervisor, soft=False)
    vm = Vm(make_config(tmp_path / "missing"), io=HostIo(stdin=None), hypervisor=opened)
    with pytest.raises(UsageError, match="missing"):
        vm.build()
    assert calls[-1] == ("close",)
    with pytest.raises(VmStateError):
        vm.build()


def test_boots_once(elf_kernel, choice):
    """A machine that has run is not run again."""
    config = make_config(elf_kernel(POWER_OFF), hypervisor=choice)
    with Vm(config, io=HostIo(stdin=None)) as vm:
        vm.run()
        with pytest.raises(VmStateError):
            vm.boot()


def test_exec_needs_the_default_guest(tmp_path):
    """A command and a kernel of the caller's contradict each other."""
    payload = PayloadConfig(kernel=tmp_path / "kernel", exec_command="true")
    with Vm(VmConfig(payload=payload)) as vm, pytest.raises(OptionError, match="--exec"):
        vm.build()


def test_switch_interval_is_set_and_put_back(elf_kernel, fake_hypervisor):
    """While a machine lives, Python's threads switch quickly; afterwards as before."""
    before = sys.getswitchinterval()
    opened = OpenHypervisor(fake_hypervisor, soft=False)
    with Vm(make_config(elf_kernel(SPIN)), io=HostIo(stdin=None), hypervisor=opened) as vm:
        vm.build()
        assert sys.getswitchinterval() == pytest.approx(50e-6)
    assert sys.getswitchinterval() == pytest.approx(before)


def test_nobody_reads_the_console(elf_kernel, choice, pipe):
    """A closed pipe behind the console ends the machine as SIGPIPE ends a program."""
    os.close(pipe[0])
    config = make_config(elf_kernel(HELLO), hypervisor=choice)
    with Vm(config, io=HostIo(stdin=None, stdout=pipe[1])) as vm:
        vm.run()
        assert vm.exit_code == 141


def test_forgotten_machine_warns():
    """A machine that nobody closed says so when it goes."""
    with pytest.warns(ResourceWarning, match="unclosed"):
        Vm(VmConfig()).__del__()


@pytest.mark.parametrize("transport", VirtioTransport)
def test_console_of_a_machine(elf_kernel, choice, transport):
    """A script types, reads and resizes; after the end nothing of it harms."""
    config = make_config(
        elf_kernel(SPIN),
        hypervisor=choice,
        console=ConsoleConfig(ConsoleMode.TTY),
        virtio_transport=transport,
    )
    with Vm(config, io=HostIo(stdin=None, console=print, virtio_console=print)) as vm:
        vm.resize_console(80, 25)
        with pytest.raises(VmStateError, match="no virtio console"):
            vm.console  # noqa: B018  # the property raises
        vm.boot()
        vm.resize_console(132, 43)
        assert vm.console.type_in(b"hello") == 5
        vm.stop()
        assert vm.wait() is not None
    vm.resize_console(80, 25)


def test_no_virtio_console(run):
    """Nothing was asked for."""
    _end, _output, vm = run(POWER_OFF)
    with pytest.raises(VmStateError, match="no virtio console"):
        vm.console  # noqa: B018  # the property raises
    vm.resize_console(80, 25)


def test_the_path_of_a_pty(elf_kernel, choice, caplog):
    """It is known to scripts, and said to people."""
    config = make_config(
        elf_kernel(SPIN), hypervisor=choice, console=ConsoleConfig(ConsoleMode.PTY)
    )
    with caplog.at_level("INFO"), Vm(config, io=HostIo(stdin=None, console=print)) as vm:
        vm.boot()
        assert vm.console.path is not None
        assert Path(vm.console.path).is_char_device()
        assert f"the console is at {vm.console.path}" in caplog.messages


def test_two_consoles_share_no_terminal(elf_kernel):
    """The serial port has stdin and stdout already; a function for output is another matter."""
    config = make_config(elf_kernel(SPIN), console=ConsoleConfig(ConsoleMode.TTY))
    with Vm(config) as vm, pytest.raises(OptionError, match="--console 'tty': the terminal is"):
        vm.build()
