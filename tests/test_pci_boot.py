"""A stock kernel and an entropy device on PCI: found, driven, moved, with each interrupt."""

from __future__ import annotations

import os
import re
import tempfile

import pytest

from virtio_devices import Rng
from vmm_reference import (
    HostIo,
    HypervisorChoice,
    KvmState,
    PayloadConfig,
    SerialConfig,
    SerialMode,
    Vm,
    VmConfig,
    examine_kvm,
)
from vmm_reference.device_manager import DeviceManager

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

BYTE = b"\x5a"
CMDLINE = "console=ttyS0 panic=-1 cryptomgr.notests"
READ_ENTROPY = "head -c 64 /dev/hwrng"
COMPLAINT = re.compile(r"BUG:|Oops|ACPI.*[Ee]rror|pci.*(can't|failed|no space|conflict)")


class WithEntropy(DeviceManager):
    """A machine's devices, and an entropy device that gives one byte only."""

    def __init__(self, vm, memory, requests, lines, **options):
        super().__init__(vm, memory, requests, lines, **options)
        self.virtio.attach(Rng(lambda size: BYTE * size), "rng", requests.loop)


@pytest.fixture(params=["soft", pytest.param("kvm", marks=pytest.mark.stock_kvm)])
def choice(request):
    """Each hypervisor; KVM where it runs stock kernels, as it does in the nested session."""
    if request.param == "kvm" and (kvm := examine_kvm()).state is not KvmState.STOCK:
        pytest.skip(f"this KVM cannot run stock kernels: {kvm}")
    return HypervisorChoice(request.param)


@pytest.fixture
def run(choice, monkeypatch, tmp_path):
    """A function that boots the default guest with such a device and gives a script's output."""
    monkeypatch.setattr("vmm_reference.vm.DeviceManager", WithEntropy)
    console = tmp_path / "console"

    def boot(script, *words):
        config = VmConfig(
            payload=PayloadConfig(exec_command=script, cmdline=" ".join((CMDLINE, *words))),
            serial=SerialConfig(SerialMode.FILE, console),
            hypervisor=choice,
        )
        with tempfile.TemporaryFile() as output:
            with Vm(config, io=HostIo(stdin=None, stdout=output.fileno())) as vm:
                vm.run()
                code = vm.exit_code
            said = console.read_text(errors="replace")
            print(said)  # noqa: T201 - pytest shows it when the test fails
            assert code == 0
            assert [line for line in said.splitlines() if COMPLAINT.search(line)] == []
            return os.pread(output.fileno(), 1 << 20, 0)

    return boot


def test_a_stock_kernel_uses_a_pci_entropy_device(run):
    """Bridge and device are listed, its driver has bound, its bytes are ours, by two messages."""
    listing = (
        "cd /sys/bus/pci/devices; for device in *; do "
        "echo $device $(cat $device/vendor $device/device $device/class); done; "
        "readlink 0000:00:01.0/driver; ls 0000:00:01.0/msi_irqs | wc -l; "
        "cat /sys/class/misc/hw_random/rng_current; "
        "grep -c 'PCI-MSI.*virtio0-input' /proc/interrupts; "
    )
    *lines, entropy = run(listing + READ_ENTROPY).split(b"\n")
    assert [line.decode() for line in lines] == [
        "0000:00:00.0 0x8086 0x0d57 0x060000",
        "0000:00:01.0 0x1af4 0x1044 0xff0000",
        "../../../bus/pci/drivers/virtio-pci",
        "2",
        "virtio_rng.0",
        "1",
    ]
    assert entropy == BYTE * 64


def test_a_stock_kernel_uses_the_pin(run):
    """Without messages, the device's interrupt is the line that ACPI says."""
    output = run(f"{READ_ENTROPY}; grep virtio0 /proc/interrupts", "pci=nomsi")
    assert output.startswith(BYTE * 64)
    assert re.search(rb": +[1-9][0-9]* +IO-APIC +17-fasteoi +virtio0", output)


def test_a_stock_kernel_moves_a_device(run):
    """A changed BAR, then hot removal and a new scan: the device is at its new place and works."""
    script = (
        "cd /sys/bus/pci/devices; device=0000:00:01.0; "
        "echo $device >$device/driver/unbind; "
        r"printf '\0\0\0\300\0\0\0\0' | "
        "dd of=$device/config bs=1 seek=16 conv=notrunc 2>/dev/null; "
        "echo 1 >$device/remove; echo *; echo 1 >/sys/bus/pci/rescan; echo *; dmesg | grep BAR; "
    )
    output = run(script + READ_ENTROPY)
    assert output.startswith(b"0000:00:00.0\n0000:00:00.0 0000:00:01.0\n")
    assert b"BAR 0 [mem 0xc0000000-0xc0007fff 64bit]" in output
    assert output.endswith(BYTE * 64)
