"""Debian's kernel as shipped, from its first instruction to user space, on a KVM that runs it.

`python3 noxfile.py nested` has such a KVM on every host.
"""

from __future__ import annotations

import re

import pytest

from vmm_reference.hypervisor import KvmState, examine_kvm

pytestmark = [pytest.mark.stock_kvm, pytest.mark.boot, pytest.mark.timeout(300)]

KVM = ("--hypervisor", "kvm")
TIMEOUT = 250


@pytest.fixture(scope="module", autouse=True)
def _stock_kvm():
    """Skips where KVM is absent or interprets kernel mode incompletely."""
    kvm = examine_kvm()
    if kvm.state is not KvmState.STOCK:
        pytest.skip(f"this KVM cannot run stock kernels: {kvm}")


@pytest.fixture
def boot(vmm, tmp_path):
    """A function that boots the default guest, and returns its end and what its kernel said."""

    def run(*arguments):
        console = tmp_path / "console"
        ended = vmm("-v", "--serial", f"file={console}", *arguments, timeout=TIMEOUT)
        said = console.read_text(errors="replace")
        print(said)  # noqa: T201 - pytest shows it when the test fails
        return ended, said

    return run


COMPLAINT = re.compile(
    r"WARNING:|BUG:|Oops|general protection|unchecked MSR|[Ff]irmware [Bb]ug|ACPI.*[Ee]rror"
)
# QEMU 7.2 does not intercept XSETBV for an SVM hypervisor, so KVM takes XCR0 for 1 and answers
# CPUID leaf 0xD accordingly; the kernel notices and goes on without XSAVE.
OF_THE_EMULATOR = re.compile(r"fpu__init_system_xstate")


def complaints(said: str) -> list[str]:
    """Lines in which a kernel tells that its machine is not as it should be."""
    lines = (line for line in said.splitlines() if COMPLAINT.search(line))
    return [line for line in lines if not OF_THE_EMULATOR.search(line)]


def test_stock_kernel_boots_to_user_space(boot):
    """The shipped bzImage boots on KVM; output and exit code of the command are ours."""
    ended, said = boot(*KVM, "--exec", "uname -a; exit 7")
    assert ended.stdout.startswith(b"Linux py-vmm 6.")
    assert ended.code == 7
    assert "Hypervisor detected: KVM" in said
    assert "Linux version" in said
    assert complaints(said) == []


def test_auto_takes_kvm_and_reset_is_seen(boot):
    """The probe passes here, so `auto` is KVM; `reboot` has its own exit code."""
    ended, said = boot("--hypervisor", "auto", "--exec", "echo before; reboot -f; sleep 60")
    assert "software hypervisor" not in ended.stderr
    assert "Hypervisor detected: KVM" in said
    assert (ended.stdout, ended.code) == (b"before\n", 32)


def test_panic_is_seen(boot):
    """A panic reaches the host through pvpanic and has its own exit code."""
    ended, said = boot(*KVM, "--exec", "echo before; echo c >/proc/sysrq-trigger; sleep 60")
    assert "Kernel panic" in said
    assert (ended.stdout, ended.code) == (b"before\n", 34)
