"""The run loop: every exit leads to a bus, to the next run, or to the machine's end."""

from __future__ import annotations

import pytest

from kvm_ioctls import KvmError
from kvm_ioctls.exits import (
    FailEntry,
    Hlt,
    InternalError,
    Interrupted,
    IoIn,
    IoOut,
    MmioRead,
    MmioWrite,
    Shutdown,
    SystemEvent,
)
from vmm_reference.bus import Bus
from vmm_reference.exit_codes import EndKind
from vmm_reference.vcpu import VcpuThread


class Memory:
    """A device that is memory and notes every access."""

    def __init__(self, size):
        self.bytes = bytearray(size)
        self.accesses = []

    def read(self, offset, data):
        self.accesses.append(("read", offset, len(data)))
        data[:] = self.bytes[offset : offset + len(data)]

    def write(self, offset, data):
        self.accesses.append(("write", offset, bytes(data)))
        self.bytes[offset : offset + len(data)] = data


@pytest.fixture
def device():
    return Memory(16)


@pytest.fixture
def run(fake_vcpu, device):
    """A function that runs a vCPU through the given exits and returns how it ended."""

    def run_exits(*exits):
        pio, mmio = Bus("ports", 1 << 16), Bus("memory")
        pio.insert(0x100, 16, device)
        mmio.insert(0xD000_0000, 16, device)
        ends = []
        fake_vcpu.exits = list(exits)
        fake_vcpu.get_regs = lambda: type("Regs", (), {"rip": 0x1234})
        thread = VcpuThread(0, fake_vcpu, pio, mmio, ends.append)
        thread.start()
        assert thread.join(10)
        (end,) = ends
        return end

    return run_exits


def view(data):
    return memoryview(bytearray(data))


def test_port_write(run, device):
    """OUT reaches the device at its offset."""
    run(IoOut(0x102, 2, 1, view(b"\x12\x34")))
    assert device.accesses == [("write", 2, b"\x12\x34")]


def test_port_read_fills_the_exit(run, device):
    """IN is answered in the exit's own data."""
    device.bytes[:2] = b"\xab\xcd"
    data = view(2)
    run(IoIn(0x100, 2, 1, data))
    assert bytes(data) == b"\xab\xcd"


def test_unclaimed_reads_are_ones(run):
    """A port or address that nobody claims reads as ones."""
    port, address = view(4), view(8)
    run(IoIn(0x500, 4, 1, port), MmioRead(0xE000_0000, address))
    assert bytes(port) == b"\xff" * 4
    assert bytes(address) == b"\xff" * 8


def test_mmio(run, device):
    """Accesses to what is not memory reach the memory bus."""
    data = view(4)
    run(MmioWrite(0xD000_0004, view(b"abcd")), MmioRead(0xD000_0004, data))
    assert bytes(data) == b"abcd"
    assert device.accesses == [("write", 4, b"abcd"), ("read", 4, 4)]


def test_string_io_is_one_access_per_element(run, device):
    """A repeated access does each element on the same port, in order."""
    device.bytes[:2] = b"\x01\x02"
    data = view(4)
    run(IoOut(0x104, 1, 3, view(b"xyz")), IoIn(0x100, 2, 2, data))
    assert device.accesses[:3] == [("write", 4, b"x"), ("write", 4, b"y"), ("write", 4, b"z")]
    assert device.accesses[3:] == [("read", 0, 2), ("read", 0, 2)]
    assert bytes(data) == b"\x01\x02\x01\x02"


def test_interruption_only_runs_again(run, device):
    """A kick without a reason to stop changes nothing."""
    run(Interrupted(), IoOut(0x100, 1, 1, view(b"x")))
    assert len(device.accesses) == 1


@pytest.mark.parametrize(
    ("left", "kind"),
    [
        (Shutdown(), EndKind.TRIPLE_FAULT),
        (SystemEvent(1, ()), EndKind.POWERED_OFF),
        (SystemEvent(2, ()), EndKind.RESET),
        (SystemEvent(3, ()), EndKind.PANIC),
        (SystemEvent(9, ()), EndKind.HYPERVISOR_FAILED),
        (InternalError(1, (), b"\x0f\x0b"), EndKind.HYPERVISOR_FAILED),
        (FailEntry(0x8000_0021, 0), EndKind.HYPERVISOR_FAILED),
        (Hlt(), EndKind.HYPERVISOR_FAILED),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_exits_that_end_the_machine(run, left, kind):
    """What no device can answer ends the machine with the fitting reason."""
    assert run(left).kind is kind


def test_internal_error_says_where_and_what(run):
    """The instruction and its address are in the message."""
    end = run(InternalError(1, (), b"\x0f\x0b"))
    assert "vCPU 0 at rip 0x1234" in end.detail
    assert "0f 0b" in end.detail


def test_exception_of_a_device_ends_the_machine(run, device):
    """A device that raises does not leave the guest running without it."""
    device.write = None
    end = run(IoOut(0x100, 1, 1, view(b"x")))
    assert end.kind is EndKind.ERROR
    assert isinstance(end.error, TypeError)


def test_failing_run_ends_the_machine(run, fake_vcpu):
    """An error of KVM_RUN itself is reported with its cause."""

    def fail():
        raise KvmError(14, "KVM_RUN")

    fake_vcpu.run = fail
    end = run()
    assert end.kind is EndKind.ERROR
    assert "KVM_RUN failed" in end.detail


def test_stop_before_the_first_run(fake_vcpu):
    """A vCPU that is stopped before it starts does not enter the guest."""
    ends = []
    thread = VcpuThread(0, fake_vcpu, Bus("ports"), Bus("memory"), ends.append)
    thread.stop()
    thread.start()
    assert thread.join(10)
    assert ends == []
