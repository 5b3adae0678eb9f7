"""The default guest from start to end: output, exit codes, and each way in which a guest ends."""

from __future__ import annotations

import hashlib

import pytest

pytestmark = pytest.mark.boot

SOFT = ("--hypervisor", "soft")


def test_exec_gives_output_and_exit_code_of_the_command(vmm):
    """`--exec` prints exactly what the command prints and exits with its code."""
    ended = vmm(*SOFT, "--exec", "echo to stdout; echo to stderr >&2; exit 7")
    assert ended.stdout == b"to stdout\n"
    assert "to stderr\n" in ended.stderr
    assert ended.code == 7


def test_exec_passes_every_byte(vmm):
    """Output is binary: no byte is translated, added or lost, and a command may hold any byte."""
    every_byte = 'for i in $(seq 0 255); do printf "\\\\$(printf %03o $i)"; done'
    noise = "head -c 100000 /dev/urandom"
    script = f"({every_byte}; {noise}) | tee /tmp/x; sha256sum /tmp/x >&2; : 'é\n'"
    ended = vmm(*SOFT, "--exec", script)
    assert ended.stdout[:256] == bytes(range(256))
    assert hashlib.sha256(ended.stdout).hexdigest() in ended.stderr
    assert len(ended.stdout) == 256 + 100000
    assert ended.code == 0


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
@pytest.mark.parametrize("script", ["echo hi", "printf hi"])
def test_exec_does_not_lose_output_silently(vmm, where, script):
    """A command whose output cannot be written has failed, whatever its own exit code."""
    prefix = ("sh", "-c", f'exec "$@" {where}', "sh")
    ended = vmm(*SOFT, "--exec", script, prefix=prefix)
    assert ended.code == 1
    assert "cannot write to stdout" in ended.stderr


def test_exec_without_output_needs_no_stdout(vmm):
    """A command that prints nothing has its own exit code without a standard output too."""
    prefix = ("sh", "-c", 'exec "$@" >&-', "sh")
    ended = vmm(*SOFT, "--exec", "echo to stderr >&2; exit 7", prefix=prefix)
    assert ended.code == 7
    assert "to stderr\n" in ended.stderr


def test_auto_chooses_a_hypervisor_and_boots(vmm):
    """Without `--hypervisor` the stock kernel boots, whatever /dev/kvm is like here."""
    ended = vmm("--memory", "size=300M", "--exec", "uname -s; grep MemTotal /proc/meminfo")
    kernel, memory = ended.stdout.decode().splitlines()
    assert kernel == "Linux"
    assert 200_000 < int(memory.split()[1]) < 300 * 1024
    assert ended.code == 0


def test_serial_file_receives_the_console(vmm, tmp_path):
    """`--serial file=` takes the kernel's console; stdout is the command's alone."""
    console = tmp_path / "console"
    ended = vmm(
        *SOFT,
        "--serial",
        f"file={console}",
        "--cmdline",
        "console=ttyS0 py_vmm.marker",
        "--exec",
        "echo x",
    )
    assert ended.stdout == b"x\n"
    assert b"Linux version" in console.read_bytes()
    assert b"py_vmm.marker" in console.read_bytes()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param("poweroff -f; sleep 60", 1, id="poweroff"),
        pytest.param("reboot -f; sleep 60", 32, id="reboot"),
        pytest.param("echo c > /proc/sysrq-trigger; sleep 60", 34, id="panic"),
    ],
)
def test_guest_ends_itself(vmm, script, code):
    """A guest that powers off, resets or panics before its command ends does not exit with 0."""
    ended = vmm(*SOFT, "--exec", f"echo before; sleep 1; {script}")
    assert ended.stdout == b"before\n"
    assert ended.code == code


def test_a_panic_before_any_driver_is_a_panic(vmm):
    """Too little memory to unpack the initramfs: no pvpanic yet, and still not a reset."""
    ended = vmm(*SOFT, "--memory", "size=64M", "--exec", "true")
    assert (ended.stdout, ended.code) == (b"", 34)


@pytest.mark.parametrize(
    ("code", "machine_code"),
    [
        pytest.param(33, "0f011c2500000000 cc", id="triple fault"),
        pytest.param(32, "b0fe e664 f4", id="keyboard controller reset"),
        pytest.param(0, "ba00060000 b034 ee f4", id="ACPI sleep"),
        pytest.param(34, "ba05050000 b001 ee f4", id="pvpanic"),
    ],
)
def test_bare_guest_ends_itself(vmm, elf_kernel, code, machine_code):
    """The same ends without an operating system: each is one write to a port, or a triple fault."""
    kernel = elf_kernel(bytes.fromhex(machine_code))
    ended = vmm(*SOFT, "--memory", "size=64M", "--serial", "null", "--kernel", kernel, timeout=30)
    assert (ended.code, ended.stdout) == (code, b"")
    assert "Traceback" not in ended.stderr
