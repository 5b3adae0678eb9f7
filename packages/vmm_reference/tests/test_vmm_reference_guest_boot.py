"""The real guest: Debian's packages, and what the guest does when QEMU runs it.

QEMU is the judge that the files are right, whatever our own VMM does.
"""

from __future__ import annotations

import contextlib
import os
import platform
import pty
import select
import shutil
import subprocess
import termios
import time

import pytest

from vmm_reference.guest_assets import Cause, GuestAssetsError, cpio, deb, default_guest
from vmm_reference.guest_assets.cache import default_root
from vmm_reference.guest_assets.raw_ports import program

QEMU = shutil.which("qemu-system-x86_64")
BOOT_SECONDS = 90
UNUSABLE_APT = {
    Cause.NO_APT, Cause.NO_NETWORK, Cause.NO_SOURCES, Cause.UNKNOWN_PACKAGE, Cause.TIMEOUT,
    Cause.APT_FAILED, Cause.NO_HOST_KERNEL, Cause.NO_HOST_BUSYBOX,
}  # fmt: skip

boots = [
    pytest.mark.boot,
    pytest.mark.timeout(2 * BOOT_SECONDS),
    pytest.mark.skipif(QEMU is None, reason="no qemu-system-x86_64 to boot the guest with"),
]


@pytest.fixture(scope="module")
def guest():
    """The default guest, fetched into the user's cache if it is not there yet."""
    try:
        return default_guest()
    except GuestAssetsError as error:
        if error.cause in UNUSABLE_APT:
            pytest.skip(f"no guest: {error}")
        raise


@pytest.fixture(scope="module")
def busybox(guest, tmp_path_factory):
    """The guest's busybox as a program of this host."""
    if platform.machine() != "x86_64":
        pytest.skip("the guest's programs are for x86-64")
    path = tmp_path_factory.mktemp("busybox") / "busybox"
    entries = cpio.read_archive(guest.initramfs.read_bytes())
    path.write_bytes(next(entry.data for entry in entries if entry.name == "bin/busybox"))
    path.chmod(0o755)
    return path


def qemu(guest, initramfs, cmdline, *arguments):
    """The command that boots `guest` without any device of QEMU's choice."""
    return [
        QEMU, "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256", "-nodefaults",
        "-display", "none", "-no-reboot", "-kernel", guest.kernel, "-initrd", initramfs,
        "-append", cmdline, *arguments,
    ]  # fmt: skip


@pytest.fixture
def run(guest, tmp_path):
    """A function that runs a command in the guest; returns what came out of the four ports."""

    def run(command):
        image = default_guest(exec_command=command)
        initramfs = tmp_path / "initramfs"
        initramfs.write_bytes(image.initramfs.read_bytes() + image.overlay)
        ports = [tmp_path / f"port{number}" for number in range(4)]
        serial = [word for port in ports for word in ("-serial", f"file:{port}")]
        subprocess.run(
            qemu(image, initramfs, image.cmdline, *serial),
            stdin=subprocess.DEVNULL,
            timeout=BOOT_SECONDS,
            check=True,
        )
        return [port.read_bytes() for port in ports]

    return run


class TestExec:
    """What `--exec` relies on."""

    pytestmark = boots

    def test_output_is_exact_and_the_status_follows(self, run):
        """1 MiB of all byte values, errors without a newline, and the exit status 7."""
        _, output, errors, status = run(
            'printf "%b" "$(i=0; while [ $i -lt 256 ]; do printf "\\\\%04o" $i; i=$((i+1)); done)"'
            " >/a; for i in 1 2 3 4 5 6; do cat /a /a /a /a >/b; mv /b /a; done;"
            " cat /a; printf 'no newline' >&2; exit 7"
        )
        assert output == bytes(range(256)) * 4096
        assert (errors, status) == (b"no newline", b"7\n")

    def test_a_signal_ends_with_128_and_its_number(self, run):
        """Killed by signal 2, although background commands of a shell usually ignore it."""
        _, output, errors, status = run("cat; echo before; kill -INT $$; echo after")
        assert (output, errors, status) == (b"before\n", b"", b"130\n")

    def test_a_command_sees_a_usable_system(self, run):
        """HOME, PATH and TERM are set, the usual names of /dev exist, any byte passes."""
        _, output, errors, status = run(
            'echo "$HOME $TERM $PATH"; cat < <(echo fd) >/dev/stdout; /sbin/ip -V >/dev/null 2>&1;'
            " echo '\udcff\udc80\\n' \"$0\" $#; uname -s; sleep 100 & exit 0"
        )
        assert output.splitlines() == [
            b"/root linux /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            b"fd",
            b"\xff\x80\\n sh 0",
            b"Linux",
        ]
        assert (errors, status) == (b"", b"0\n")

    def test_reboot_is_heard_and_output_comes_first(self, run):
        """A plain `reboot` restarts at once; what was written is not lost; there is no status."""
        console, output, _, status = run("echo before; reboot; sleep 60")
        assert (output, status) == (b"before\n", b"")
        assert b"Restarting system" in console


@pytest.fixture
def shell(guest):
    """The interactive guest: a function that types a line and waits for a text in the output."""
    command = qemu(
        guest, guest.initramfs, f"{guest.cmdline} quiet py_vmm.rows=33 py_vmm.cols=99",
        "-serial", "stdio", "-device", "pvpanic", "-device", "virtio-rng-pci",
    )  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        seen = bytearray()

        def talk(line, until):
            del seen[:]
            process.stdin.write(line)
            process.stdin.flush()
            deadline = time.monotonic() + BOOT_SECONDS
            while until not in seen:
                ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
                data = os.read(process.stdout.fileno(), 65536) if ready else b""
                assert data, f"no {until!r} in {bytes(seen)!r}"
                seen.extend(data)
            return bytes(seen)

        talk.process = process
        try:
            yield talk
        finally:
            process.kill()


class TestShell:
    """What a person on a terminal relies on."""

    pytestmark = boots

    def test_a_session(self, shell):
        """Banner, size, drivers, Ctrl-C, job control, and `poweroff` that works."""
        assert b"Ctrl-A x" in shell(b"", b"# ")
        assert b"\r\n33 99\r\n" in shell(b"stty size; echo do''ne\n", b"done")
        modules = shell(b"cat /proc/modules; echo do''ne\n", b"done")
        assert (b"pvpanic_mmio" in modules, b"virtio_rng" in modules) == (True, True)
        shell(b"echo sta''rted; sleep 1000\n", b"started")
        time.sleep(0.5)
        shell(b"\x03", b"# ")
        assert b"status 130" in shell(b"echo status $?; echo do''ne\n", b"done")
        assert b"Running" in shell(b"sleep 1000 & jobs; echo do''ne\n", b"done")
        shell.process.stdin.write(b"poweroff\n")
        shell.process.stdin.flush()
        assert shell.process.wait(BOOT_SECONDS) == 0


def test_the_initramfs_stays_small(guest):
    """Each MB costs 13 ms of every boot under emulation; look before raising this."""
    assert guest.initramfs.stat().st_size < 3_200_000


def test_an_independent_reader_agrees_on_the_archive(guest, busybox):
    """The busybox implementation of cpio lists the names that ours wrote."""
    data = guest.initramfs.read_bytes()
    listed = subprocess.run([busybox, "cpio", "-t"], input=data, capture_output=True, check=True)
    assert listed.stdout.decode().splitlines() == [entry.name for entry in cpio.read_archive(data)]


def test_init_is_a_correct_script_for_its_shell(guest, busybox, tmp_path):
    """The guest's own shell finds no syntax error."""
    entries = cpio.read_archive(guest.initramfs.read_bytes())
    script = tmp_path / "init"
    script.write_bytes(next(entry.data for entry in entries if entry.name == "init"))
    subprocess.run([busybox, "sh", "-n", script], check=True)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb to compare with")
def test_dpkg_agrees_on_a_package(guest):
    """Our reader finds the files in Debian's busybox package that dpkg-deb finds."""
    packages = sorted((default_root() / "packages").glob("busybox*.deb"))
    if not packages:
        pytest.skip("the guest was made from this host's kernel")
    listed = subprocess.run(
        ["dpkg-deb", "-c", packages[0]], capture_output=True, check=True, text=True
    )
    lines = [line.split(maxsplit=5) for line in listed.stdout.splitlines()]
    files = [fields[5].removeprefix("./") for fields in lines if fields[0].startswith("-")]
    assert [member.path for member in deb.read_members(packages[0], lambda _: True)] == files


def test_the_cached_guest_costs_no_time(guest):
    """It is on the way of every boot: well below 5 ms, whatever the kernel's size."""
    best = min(timed(default_guest) for _ in range(10))
    assert best < 0.005


def timed(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a program for x86-64")
def test_the_port_program_makes_three_terminals_raw(tmp_path):
    """After it ran, descriptors 3 to 5 pass bytes as they are."""
    path = tmp_path / "raw-ports"
    path.write_bytes(program())
    path.chmod(0o755)
    with contextlib.ExitStack() as stack:
        pairs = [pty.openpty() for _ in range(3)]
        for fd in sum(pairs, ()):
            stack.callback(os.close, fd)
        redirects = " ".join(f"{n}<>{os.ttyname(slave)}" for n, (_, slave) in enumerate(pairs, 3))
        subprocess.run(["sh", "-c", f"exec {path} {redirects}"], check=True, timeout=10)
        for master, slave in pairs:
            attributes = termios.tcgetattr(slave)
            assert attributes[:2] + attributes[3:4] == [0, 0, 0]
            assert attributes[2] & termios.CSIZE == termios.CS8
            assert attributes[6][termios.VMIN] in (1, b"\x01")
            os.write(slave, b"a\n\x04")
            assert os.read(master, 10) == b"a\n\x04"
