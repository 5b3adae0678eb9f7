"""The probe guest, and the choice that follows from its answer."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from kvm_ioctls.exits import Hlt, InternalError, Interrupted, IoOut, Shutdown
from vmm_reference import hypervisor as hypervisors
from vmm_reference import probe_guest
from vmm_reference.config import HypervisorChoice
from vmm_reference.errors import HypervisorUnavailable
from vmm_reference.hypervisor import KvmState, examine_kvm, open_hypervisor
from vmm_reference.logs import NOTICE
from vmm_reference.probe import ALL_STEPS, ProbeResult, run_probe

STEPS = len(probe_guest.STEPS)


def passed(step):
    """What a step that works ends with."""
    return IoOut(0xF0, 1, 1, memoryview(bytearray([step])))


@pytest.fixture
def probe(fake_hypervisor):
    """A function that probes a hypervisor whose vCPU ends its runs as given."""

    def run(*exits):
        create_vm = fake_hypervisor.create_vm

        def create(*_arguments):
            vm = create_vm()
            create_vcpu = vm.create_vcpu

            def create_with_exits(index):
                vcpu = create_vcpu(index)
                vcpu.exits = list(exits)
                return vcpu

            vm.create_vcpu = create_with_exits
            return vm

        fake_hypervisor.create_vm = create
        return run_probe(fake_hypervisor, step_timeout_ns=50_000_000)

    return run


def test_all_steps_pass(probe):
    """Six reports in order make a KVM that runs stock kernels."""
    result = probe(*(passed(step) for step in range(1, STEPS + 1)))
    assert result == ProbeResult()
    assert result.runs_stock_kernels


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        (InternalError(1, (), b"\x66\x48\x0f\x6e\xcc\x66\x0f"), "internal error 1 at 66 48 0f 6e"),
        (Hlt(), "wrong result, or an unexpected fault"),
        (Shutdown(), "triple fault"),
        (passed(9), "unexpected exit"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_first_failure_ends_the_probe(probe, calls, left, reason):
    """The result names the first failed step and how it failed; later steps do not run."""
    result = probe(passed(1), passed(2), left)
    assert result.failed_step == 3
    assert result.reason.startswith(probe_guest.STEPS[2][0] + ": " + reason)
    assert [name for name, *_ in calls].count("vcpu0.set_regs") == 3


def test_early_interruption_is_no_failure(probe):
    """A kick that was meant for an earlier step, or a signal, does not fail a step."""
    assert probe(Interrupted(), passed(1), Interrupted(), Interrupted(), passed(2), Hlt()) == (
        ProbeResult(3, f"{probe_guest.STEPS[2][0]}: wrong result, or an unexpected fault")
    )


def test_guest_without_end_is_stopped(fake_hypervisor, calls):
    """A step that spins is kicked out after its time."""

    class Spinning:
        def __init__(self, vcpu):
            self.vcpu = vcpu

        def __getattr__(self, name):
            return getattr(self.vcpu, name)

        def run(self):
            while not any(name == "vcpu0.kick" for name, *_ in calls):
                time.sleep(0.001)
            return Interrupted()

    create_vm = fake_hypervisor.create_vm

    def create():
        vm = create_vm()
        create_vcpu = vm.create_vcpu
        vm.create_vcpu = lambda index: Spinning(create_vcpu(index))
        return vm

    fake_hypervisor.create_vm = create
    result = run_probe(fake_hypervisor, step_timeout_ns=20_000_000)
    assert result == ProbeResult(1, f"{probe_guest.STEPS[0][0]}: no end in sight")


def test_probe_cleans_up(probe, calls):
    """VCPU and virtual machine are closed, and the memory is taken back, after a failure too."""
    probe(Hlt())
    assert [name for name, *_ in calls[-3:]] == [
        "vcpu0.close",
        "set_user_memory_region",
        "close",
    ]


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs binutils' objdump")
def test_probe_bytes_are_what_the_comments_say(tmp_path):
    """Disassembling the machine code gives the mnemonics in its comments, in order."""
    source = Path(probe_guest.__file__).read_text()
    lines = [line for line in source.splitlines() if line.lstrip(" (+").startswith('b"\\x')]
    comments = [line.split("#", 1)[1].split(":")[-1].split()[0] for line in lines if "#" in line]
    code = b"".join(
        bytes.fromhex(line.split('"')[1].replace("\\x", "")) for line in lines if "#" in line
    )
    path = tmp_path / "code"
    path.write_bytes(code)
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [row.split("\t")[2].split()[0] for row in listing.splitlines() if row.count("\t") == 2]
    assert [mnemonic(name) for name in found] == [mnemonic(name) for name in comments]


def mnemonic(name):
    """One name for the synonyms that assembler and disassembler use."""
    return {"jnz": "jne", "je": "jz"}.get(name, name)


@pytest.mark.parametrize("step", ALL_STEPS)
def test_emulator_passes_the_probe(step):
    """`soft_kvm` does everything that it takes over for."""
    soft = open_hypervisor(HypervisorChoice.SOFT)
    with soft.hypervisor as hypervisor:
        assert run_probe(hypervisor, steps=[step]) == ProbeResult()


@pytest.mark.kvm
def test_real_kvm_gives_an_answer(kvm_device):
    """Any KVM is either good for stock kernels, or named with the step that it fails."""
    report = examine_kvm(kvm_device)
    assert report.state in {KvmState.STOCK, KvmState.EMULATING}
    assert (report.failed_step == 0) == (report.state is KvmState.STOCK)
    assert bool(report.reason) == (report.state is KvmState.EMULATING)


def test_missing_device(tmp_path):
    """Without the device there is no KVM, and the reason names the path."""
    report = examine_kvm(tmp_path / "kvm")
    assert report.state is KvmState.NO_KVM
    assert str(tmp_path / "kvm") in report.reason


def test_kvm_that_cannot_be_had(tmp_path):
    """Asking for KVM where there is none is an error that names flag and device."""
    with pytest.raises(HypervisorUnavailable, match="--hypervisor kvm") as caught:
        open_hypervisor(HypervisorChoice.KVM, tmp_path / "kvm")
    assert str(tmp_path / "kvm") in str(caught.value)


def test_file_that_is_not_kvm(tmp_path):
    """A file that is no KVM device is not mistaken for one."""
    (tmp_path / "kvm").write_bytes(b"")
    with pytest.raises(HypervisorUnavailable):
        open_hypervisor(HypervisorChoice.KVM, tmp_path / "kvm")


def test_auto_falls_back_and_says_why(tmp_path, caplog):
    """Auto without KVM takes the emulator and logs one line with the reason."""
    with caplog.at_level(NOTICE, logger="vmm_reference"):
        opened = open_hypervisor(HypervisorChoice.AUTO, tmp_path / "kvm")
    opened.hypervisor.close()
    assert opened.soft
    (record,) = caplog.records
    assert record.levelno == NOTICE
    assert "no-kvm" in record.message
    assert str(tmp_path / "kvm") in record.message


def test_auto_takes_a_kvm_that_passes(monkeypatch, fake_hypervisor, calls):
    """Auto keeps a KVM that runs stock kernels open and uses it."""
    monkeypatch.setattr(hypervisors, "_open_kvm", lambda _path: fake_hypervisor)
    monkeypatch.setattr("vmm_reference.probe.run_probe", lambda _kvm: ProbeResult())
    opened = open_hypervisor(HypervisorChoice.AUTO)
    assert opened.hypervisor is fake_hypervisor
    assert not opened.soft
    assert ("close",) not in calls


def test_auto_closes_a_kvm_that_emulates(monkeypatch, fake_hypervisor, calls, caplog):
    """Auto does not hold on to a KVM that it does not use, and names the step."""
    monkeypatch.setattr(hypervisors, "_open_kvm", lambda _path: fake_hypervisor)
    failed = ProbeResult(2, "x87: internal error 1")
    monkeypatch.setattr("vmm_reference.probe.run_probe", lambda _kvm: failed)
    with caplog.at_level(NOTICE, logger="vmm_reference"):
        opened = open_hypervisor(HypervisorChoice.AUTO)
    opened.hypervisor.close()
    assert opened.soft
    assert ("close",) in calls
    assert "emulating: probe step 2, x87: internal error 1" in caplog.text


@pytest.mark.parametrize("result", [ProbeResult(), ProbeResult(2, "x87: internal error 1")])
def test_kvm_that_emulates_is_taken_with_a_notice(monkeypatch, fake_hypervisor, caplog, result):
    """Whoever asks for KVM gets it, and is told if it will probably fail."""
    monkeypatch.setattr(hypervisors, "_open_kvm", lambda _path: fake_hypervisor)
    monkeypatch.setattr("vmm_reference.probe.run_probe", lambda _kvm: result)
    with caplog.at_level(NOTICE, logger="vmm_reference"):
        assert open_hypervisor(HypervisorChoice.KVM).hypervisor is fake_hypervisor
    notice = "this KVM emulates and will probably fail (probe step 2, x87: internal error 1)"
    told = [] if result.runs_stock_kernels else [f"{notice}; --hypervisor soft works"]
    assert [record.message for record in caplog.records] == told
