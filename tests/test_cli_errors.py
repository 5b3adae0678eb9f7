"""Bad input: one clear sentence and the documented exit code, never a traceback."""

from __future__ import annotations

import os
import shutil

import pytest

HOST, USAGE = 1, 2
TIMEOUT = 60
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps")


def assert_one_sentence(ended, code):
    """The last line of stderr is the sentence; only a usage reminder may stand before it."""
    lines = ended.stderr.strip().splitlines()
    assert "Traceback" not in ended.stderr
    assert ended.code == code, ended.stderr
    assert ended.stdout == b""
    assert lines[-1].startswith("vmm-reference: ")
    assert len(lines[-1]) > 30, lines
    assert len([line for line in lines if line.startswith("vmm-reference: ")]) == 1, lines


@pytest.fixture
def files(tmp_path, elf_kernel):
    """Files that are no good as kernels or initramfs, by name."""
    good = elf_kernel(b"\xf4").read_bytes()
    contents = {
        "empty": b"",
        "text": b"this is a shell script\n" * 100,
        "truncated-elf": good[:70],
        "cut-segment": good[:-1],
        "arm64-elf": good[:18] + b"\xb7\x00" + good[20:],
        "elf32": good[:4] + b"\x01" + good[5:],
        "truncated-bzimage": b"\0" * 0x1F1 + b"\x04" + b"\0" * 12 + b"\x55\xaa\xeb\x6aHdrS\x0f\x02",
        "good": good,
        "big": b"",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    os.truncate(tmp_path / "big", 80 << 20)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "empty",
        "text",
        "truncated-elf",
        "cut-segment",
        "arm64-elf",
        "elf32",
        "truncated-bzimage",
        ".",
    ],
)
def test_bad_kernel(vmm, files, name):
    """A kernel that is missing, no file, empty, cut or foreign is a usage error naming it."""
    ended = vmm("--hypervisor", "soft", "--kernel", files / name, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert str(files / name) in ended.stderr


@pytest.mark.parametrize("name", ["missing", "big", "."])
def test_bad_initramfs(vmm, files, name):
    """An initramfs that is missing, no file, or larger than memory is a usage error naming it."""
    arguments = ("--kernel", files / "good", "--initramfs", files / name, "--memory", "size=64M")
    ended = vmm("--hypervisor", "soft", *arguments, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert str(files / name) in ended.stderr


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--memory", "size=0"),
        ("--memory", "size=many"),
        ("--memory", "size=-1M"),
        ("--memory", "size=9999999T"),
        ("--memory", "512M"),
        ("--memory", "sise=512M"),
        ("--cpus", "boot=0"),
        ("--cpus", "boot=x"),
        ("--cpus", "boot=100000"),
        ("--serial", "telegraph"),
        ("--serial", "file="),
        ("--console", "telegraph"),
        ("--console", "file="),
        ("--net", "vmtap0"),
        ("--net", "tap=an-interface-with-a-long-name"),
        ("--net", "tap=vmtap0,mac=02:00:00:00:00"),
        ("--net", "tap=vmtap0,mac=01:00:5e:00:00:01"),
        ("--net", "tap=vmtap0,mtu=20"),
        ("--net", "tap=vmtap0,mtu=70000"),
        ("--net", "tap=vmtap0,num_queues=3"),
        ("--net", "tap=vmtap0,ip=192.168.249.256"),
        ("--net", "tap=vmtap0,ip=224.0.0.1"),
        ("--net", "tap=vmtap0,vhost_user=on"),
        ("--net", "fd=12345"),
        ("--hypervisor", "xen"),
        ("--cmdline", "x" * 100_000),
        ("--cmdline", "é"),
        ("--no-such-flag", "1"),
    ],
)
def test_bad_value(vmm, files, flag, value):
    """A value out of range or misspelt is a usage error that names the flag."""
    ended = vmm("--hypervisor", "soft", "--kernel", files / "good", flag, value, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert flag in ended.stderr


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--net", "mtu=65535", "'mtu=65535': mtu: 65535 is not 68 to 65521"),
        ("--disk", "path=a,num_queues=0", "'path=a,num_queues=0': num_queues: 0 is not 1 to 64"),
        ("--disk", "path=a,b.img", "goes into double quotes"),
        ("--console", "file=a,b.log", "goes into double quotes"),
        ("--disk", "path=a.img,", "a comma too many"),
        ("--disk", "path=[a.img", "goes into double quotes"),
    ],
)
def test_what_is_wrong_with_a_value(vmm, files, flag, value, sentence):
    """The value as it was typed, and the part of it that cannot be."""
    ended = vmm("--hypervisor", "soft", "--kernel", files / "good", flag, value, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert sentence in ended.stderr


@pytest.mark.parametrize(
    ("transport", "room", "words"),
    [("pci", 31, "a PCI bus has room for 31 devices"), ("mmio", 14, "14 virtio-mmio devices have")],
)
def test_too_many_devices(vmm, files, transport, room, words):
    """The first one that has no room is named, and how many have."""
    os.truncate(files / "empty", 512)
    disk = f"path={files / 'empty'},readonly=on"
    arguments = ("--memory", "size=64M", "--virtio-transport", transport, "--disk")
    arguments = ("--hypervisor", "soft", "--kernel", files / "good", *arguments)
    ended = vmm(*arguments, *[disk] * (room + 1), timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert f"--disk: disk{room} is one device too many; {words}" in ended.stderr


@pytest.mark.parametrize("flag", ["--log-file", "--serial", "--console"])
def test_unwritable_output(vmm, files, flag):
    """A log or console file that cannot be opened is named."""
    path = files / "no" / "such" / "folder"
    value = path if flag == "--log-file" else f"file={path}"
    ended = vmm("--hypervisor", "soft", "--kernel", files / "good", flag, value, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert str(path) in ended.stderr


@pytest.mark.parametrize("output", ["--serial", "--console"])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("--disk", "path=missing"), "--disk missing cannot be used"),
        (("--disk", "path=log"), "--disk log is in use already"),
        (("--disk", "path=log,readonly=on"), "--disk log is in use already"),
        (("--rng", "src=missing"), "--rng missing cannot be used"),
    ],
)
def test_a_failed_start_empties_no_output(vmm, files, monkeypatch, output, other, words):
    """An output that is a disk too, or whose machine never starts, keeps what it had."""
    monkeypatch.chdir(files)
    content = os.urandom(4096)
    (files / "log").write_bytes(content)
    arguments = ("--kernel", "good", output, "file=log", *other)
    ended = vmm("--hypervisor", "soft", *arguments, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert words in ended.stderr
    assert (files / "log").read_bytes() == content


def test_one_file_for_two_outputs(vmm, files, monkeypatch):
    """The serial port and the virtio console do not write over each other."""
    monkeypatch.chdir(files)
    arguments = ("--kernel", "good", "--serial", "file=log", "--console", "file=log")
    ended = vmm("--hypervisor", "soft", *arguments, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert "--console log is in use already" in ended.stderr


@pytest.mark.parametrize(
    ("flag", "option"), [("--serial", "file"), ("--console", "file"), ("--rng", "src")]
)
def test_a_fifo_without_another_end(vmm, files, flag, option):
    """It is refused at once instead of waited for."""
    os.mkfifo(files / "fifo")
    arguments = ("--kernel", files / "good", flag, f"{option}={files / 'fifo'}")
    ended = vmm("--hypervisor", "soft", *arguments, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert f"{flag} {files / 'fifo'} is a FIFO" in ended.stderr


def test_two_consoles_on_one_terminal(vmm, files):
    """The serial port and the virtio console cannot both have it; the sentence says what can."""
    arguments = ("--kernel", files / "good", "--serial", "tty", "--console", "tty")
    ended = vmm("--hypervisor", "soft", *arguments, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert "--console 'tty'" in ended.stderr
    assert "--serial null" in ended.stderr


def test_memory_beyond_the_host(vmm, files):
    """More memory than the host can address is refused before the guest starts."""
    arguments = ("--kernel", files / "good", "--memory", "size=200T")
    ended = vmm("--hypervisor", "soft", *arguments, timeout=TIMEOUT)
    assert "Traceback" not in ended.stderr
    assert ended.code in {HOST, USAGE}
    assert "size=200T" in ended.stderr or "200T" in ended.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop its rights")
@pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="there is no /dev/kvm to be refused")  # noqa: PTH110
def test_dev_kvm_without_permission(vmm, files):
    """`--hypervisor kvm` without permission says so and names the way out."""
    rights = (
        "+dac_read_search"  # reads everything, so Python starts; may not open /dev/kvm to write
    )
    prefix = (*NOBODY, f"-all,{rights}", "--ambient-caps", f"-all,{rights}")
    ended = vmm("--hypervisor", "kvm", "--kernel", files / "good", prefix=prefix, timeout=TIMEOUT)
    assert_one_sentence(ended, HOST)
    assert "/dev/kvm" in ended.stderr
    assert "group kvm" in ended.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop its rights")
@pytest.mark.parametrize(
    ("rights", "what"),
    [
        # One opens no /dev/net/tun that is root's alone, the other makes no interface.
        ("+dac_read_search", ("/dev/net/tun", "vmtap0")),
        ("+dac_override", ("interface vmtap0: not permitted", "ip tuntap add dev")),
    ],
)
def test_an_interface_without_permission(vmm, files, rights, what):
    """`--net` without permission says what is refused and names the way out."""
    prefix = (*NOBODY, f"-all,{rights}", "--ambient-caps", f"-all,{rights}")
    arguments = ("--hypervisor", "soft", "--kernel", files / "good", "--net", "tap=vmtap0")
    ended = vmm(*arguments, prefix=prefix, timeout=TIMEOUT)
    assert_one_sentence(ended, HOST)
    assert any(word in ended.stderr for word in what)
    assert "run as root" in ended.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to leave the network")
@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        ("ip tuntap add dev a mode tap multi_queue", "tap=a", "a: it was made for several pairs"),
        ("ip tuntap add dev a mode tun", "tap=a", "a: it is no TAP interface"),
        ("true", "tap=lo", "lo: it is no TAP interface"),
        ("true", "tap=a tap=a", "a: it is in use already"),
    ],
)
def test_an_interface_that_cannot_be_used(vmm, files, prepare, options, words):
    """An interface that is another kind of thing, or somebody's, is a usage error naming it."""
    prefix = ("unshare", "--net", "sh", "-c", f'{prepare} && exec "$@"', "sh")
    arguments = ("--hypervisor", "soft", "--kernel", files / "good", "--net", *options.split())
    ended = vmm(*arguments, prefix=prefix, timeout=TIMEOUT)
    assert_one_sentence(ended, USAGE)
    assert words in ended.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to leave the network")
def test_no_network_for_the_first_fetch(vmm, tmp_path):
    """Without a network and without a cache the default guest cannot be fetched: one sentence."""
    isolate = (shutil.which("unshare"), "--net")
    ended = vmm("--exec", "true", prefix=isolate, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert_one_sentence(ended, HOST)
