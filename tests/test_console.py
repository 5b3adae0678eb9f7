"""The virtio console under a stock kernel's own driver, on what boots one."""

from __future__ import annotations

import hashlib
import os
import random
import re
import select
import subprocess
import time

import pytest

from vmm_reference.guest_assets import default_guest
from vmm_reference.hypervisor import KvmState, examine_kvm

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

TIMEOUT = 100
SLOW_S = 2.0
OUTPUT = 1 << 20
KEYS = 64 << 10


@pytest.fixture(params=["soft", pytest.param("kvm", marks=pytest.mark.stock_kvm)])
def hypervisor(request):
    """The name of each hypervisor that boots a stock kernel here."""
    if request.param == "kvm" and (kvm := examine_kvm()).state is not KvmState.STOCK:
        pytest.skip(f"this KVM cannot run stock kernels: {kvm}")
    default_guest()  # the first use says so on standard error
    return request.param


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_a_terminal(vmm_on_terminal, hypervisor, transport):
    """A shell on hvc0: the terminal's size, its changes, long output to a slow reader, long input.

    All of it on one guest, because a boot is what takes the time.
    """
    flags = ("--console", "tty", "--virtio-transport", transport, "--hypervisor", hypervisor)
    with vmm_on_terminal(*flags) as terminal:
        terminal.expect_prompt()
        assert terminal.is_raw
        terminal.send(b"dmesg -n 1; tty; stty size; cat /proc/cmdline\r")  # programs' output alone
        terminal.expect(rb"\r\n/dev/hvc0\r\n33 101\r\n.*console=ttyS0 console=hvc0 panic")
        terminal.expect_prompt()
        check_resize(terminal)
        check_slow_reader(terminal)
        check_long_input(terminal)
        terminal.send(b"sleep 100\r")
        terminal.expect(rb"sleep 100\r\n")
        time.sleep(0.5)
        terminal.send(b"\x03")  # Ctrl-C belongs to the guest
        terminal.expect_prompt()
        terminal.send(b"\x01x")
        assert terminal.wait() == 0
        assert terminal.is_restored


def check_resize(terminal):
    """The guest's process in the foreground hears of it and sees the new size."""
    terminal.send(
        b"sh -c 'trap \"stty size; exit\" WINCH; echo ready; while :; do sleep 1; done'\r"
    )
    terminal.expect(rb"\nready\r\n")
    terminal.resize(50, 120)
    terminal.expect(rb"50 120\r\n")
    terminal.expect_prompt()


def check_slow_reader(terminal):
    """While nobody reads, the guest waits: it takes longer, and nothing is lost."""
    terminal.send(b"head -c %d /bin/busybox | sha256sum\r" % OUTPUT)
    expected = terminal.expect(rb"([0-9a-f]{64})  -")[1].decode()
    terminal.expect_prompt()
    terminal.send(
        b"stty -opost; read a b </proc/uptime; echo go; head -c %d /bin/busybox;" % OUTPUT
    )
    terminal.send(b"read c d </proc/uptime; stty opost\r")
    terminal.expect(rb"\ngo\n")
    time.sleep(SLOW_S)
    prompt = terminal.expect(rb"py-vmm:~# (\x1b\[6n)?$")
    output = prompt.string[: prompt.start()]
    assert (len(output), hashlib.sha256(output).hexdigest()) == (OUTPUT, expected)
    terminal.send(b"echo $a $c\r")
    began, ended = map(float, terminal.expect(rb"\n([\d.]+) ([\d.]+)\r\n").groups())
    assert ended - began > SLOW_S * 0.75
    terminal.expect_prompt()


def check_long_input(terminal):
    """Bytes pasted at once arrive complete and in order; Ctrl-A is typed twice.

    Ctrl-O is not among them: Linux takes it for SysRq on hvc0 if that is its console.
    """
    keys = random.Random(1).randbytes(KEYS).replace(b"\x0f", b"o")  # noqa: S311 - always the same
    terminal.send(b"stty raw -echo; echo ready; head -c %d | sha256sum; stty sane\r" % KEYS)
    terminal.expect(rb"\nready\n")
    terminal.send(keys.replace(b"\x01", b"\x01\x01"))
    assert terminal.expect(rb"([0-9a-f]{64})  -")[1].decode() == hashlib.sha256(keys).hexdigest()
    terminal.expect_prompt()


def test_a_command_beside_the_console(vmm, hypervisor):
    """Standard output is the command's alone; what the console says is on standard error."""
    script = "echo out; echo said >/dev/hvc0; stty size </dev/hvc0 2>&1"
    ended = vmm("--console", "tty", "--hypervisor", hypervisor, "--exec", script, timeout=TIMEOUT)
    assert ended.stdout == b"out\nstty: standard input\n"  # no terminal, no size
    assert "said" in ended.stderr
    assert ended.code == 0


def test_a_console_in_a_file(vmm, hypervisor, tmp_path):
    """What the guest says on hvc0 is in the file, all of it; without a serial port, too."""
    path = tmp_path / "console"
    flags = ("--console", f"file={path}", "--serial", "off", "--virtio-transport", "mmio")
    script = f"""
        stty raw </dev/hvc0
        {{ echo go; head -c {OUTPUT} /bin/busybox; echo end; }} >/dev/hvc0
        head -c {OUTPUT} /bin/busybox | sha256sum
        cat /proc/cmdline
    """
    ended = vmm(*flags, "--hypervisor", hypervisor, "--exec", script, timeout=TIMEOUT)
    digest, cmdline = ended.stdout.decode().splitlines()
    said = re.search(rb"go\n(.*)end\n", path.read_bytes(), re.DOTALL)[1]
    assert (len(said), hashlib.sha256(said).hexdigest()) == (OUTPUT, digest.split()[0])
    assert cmdline.startswith("console=hvc0 panic=-1")
    assert (ended.code, ended.stderr) == (0, "")


class Reader:
    """Somebody at a pseudo terminal."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self.heard = b""

    def send(self, data):
        os.write(self.fd, data)

    def expect(self, pattern, timeout=TIMEOUT):
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.heard)):
            left = max(0, deadline - time.monotonic())
            assert select.select([self.fd], [], [], left)[0], self.heard[-500:]
            self.heard += os.read(self.fd, 65536)
        self.heard = self.heard[match.end() :]
        return match

    def leave(self):
        os.close(self.fd)


def test_a_pseudo_terminal(vmm_command, hypervisor):
    """It may be attached to and left; meanwhile the guest goes on; its path is on stderr."""
    flags = ("--console", "pty", "--serial", "null", "--hypervisor", hypervisor)
    command = subprocess.Popen(
        [vmm_command, *flags], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        said = command.stderr.readline()
        path = re.fullmatch(r"the console is at (/dev/pts/\d+)\n", said)[1]
        reader = Reader(path)
        reader.expect(rb"py-vmm:~# ")
        reader.send(b"(sleep 1; head -c 300000 /dev/zero; echo end $? >/tmp/end) &\r")
        reader.expect(rb"&\r\n")
        reader.leave()
        time.sleep(SLOW_S)
        reader = Reader(path)
        reader.send(b"\rwhile ! cat /tmp/end; do sleep 1; done 2>&-\r")
        reader.expect(rb"\nend 0\r\n")
        reader.send(b"poweroff\r")
        assert command.wait(60) == 0
        reader.leave()
        assert command.stderr.read() == ""
    finally:
        command.kill()
        command.communicate()
