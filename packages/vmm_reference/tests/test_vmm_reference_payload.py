"""Choosing what a machine runs, and where it lies in memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vm_memory import GuestMemory
from vmm_reference import guest_assets
from vmm_reference.acpi import AcpiConfig, build_tables
from vmm_reference.config import PayloadConfig, SerialConfig, SerialMode, VmConfig
from vmm_reference.errors import HostError, InputFileError, OptionError, UsageError
from vmm_reference.payload import Payload, choose_payload, load, make_cmdline
from vmm_reference.terminal import Size
from vmm_reference.virtio_config import ConsoleConfig, ConsoleMode

MIB = 1 << 20


@pytest.mark.parametrize(
    ("serial", "cmdline"),
    [
        (SerialConfig(), "console=ttyS0 panic=-1 reboot=panic_warm"),
        (SerialConfig(SerialMode.FILE, Path("x")), "console=ttyS0 panic=-1 reboot=panic_warm"),
        (SerialConfig(SerialMode.NULL), "console=ttyS0 quiet panic=-1 reboot=panic_warm"),
        (SerialConfig(SerialMode.OFF), "quiet panic=-1 reboot=panic_warm"),
    ],
    ids=lambda value: getattr(value, "mode", None) and value.mode.value,
)
def test_cmdline(serial, cmdline):
    """The console is the port if there is one; nobody's console is quiet; a panic resets."""
    assert make_cmdline(serial) == cmdline


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (ConsoleMode.TTY, "console=hvc0 panic"),
        (ConsoleMode.PTY, "console=hvc0 panic"),
        (ConsoleMode.NULL, "quiet panic"),
        (ConsoleMode.OFF, "quiet panic"),
    ],
)
def test_cmdline_with_a_virtio_console(mode, words):
    """It is the console of programs, so it comes last; who would see nothing gets nothing."""
    console = ConsoleConfig(mode)
    assert make_cmdline(SerialConfig(SerialMode.OFF), console).startswith(words)
    assert make_cmdline(SerialConfig(SerialMode.NULL), console).startswith(f"console=ttyS0 {words}")


def test_a_virtio_console_tells_its_size_itself():
    """What the command line says would be true of the beginning only."""
    cmdline = make_cmdline(SerialConfig(), ConsoleConfig(ConsoleMode.TTY), size=Size(33, 101))
    assert "py_vmm.rows" not in cmdline


def test_cmdline_tells_the_terminals_size():
    """The default guest's init is told how large the terminal is."""
    cmdline = make_cmdline(SerialConfig(), size=Size(33, 101))
    assert cmdline.endswith("py_vmm.rows=33 py_vmm.cols=101")


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A default guest that needs no network; a function to change it."""
    for name in ("vmlinuz", "vmlinux"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "initramfs").write_bytes(b"12345")

    def default_guest(*, exec_command, log):
        log("found")
        overlay = b"" if exec_command is None else exec_command.encode()
        return guest_assets.GuestImage(
            kernel=tmp_path / "vmlinuz",
            vmlinux=tmp_path / "vmlinux",
            initramfs=tmp_path / "initramfs",
            cmdline="not used",
            version="6.1",
            overlay=overlay,
        )

    monkeypatch.setattr(guest_assets, "default_guest", default_guest)
    return tmp_path


@pytest.mark.parametrize(("soft", "kernel"), [(True, "vmlinux"), (False, "vmlinuz")])
def test_kernel_of_the_default_guest(guest, soft, kernel):
    """The emulator gets the unpacked kernel; a processor unpacks it as fast by itself."""
    payload = choose_payload(VmConfig(), soft=soft)
    assert payload.kernel == guest / kernel
    assert payload.initramfs == guest / "initramfs"


def test_command_is_appended_to_the_initramfs(guest):
    """The overlay begins at a multiple of four bytes, where the kernel looks for it."""
    config = VmConfig(payload=PayloadConfig(exec_command="true"))
    assert choose_payload(config, soft=True).initramfs == b"12345\0\0\0true"


def test_callers_cmdline_replaces_ours(guest):
    """A given command line is the whole command line."""
    config = VmConfig(payload=PayloadConfig(cmdline="x=1"))
    assert choose_payload(config, soft=True).cmdline == "x=1"


def test_callers_kernel_has_no_initramfs_of_ours(guest):
    """A kernel of the caller's gets exactly what the caller names."""
    config = VmConfig(payload=PayloadConfig(kernel=guest / "vmlinuz"))
    assert choose_payload(config, soft=True) == Payload(
        guest / "vmlinuz", None, "console=ttyS0 panic=-1 reboot=panic_warm"
    )


def test_guest_that_cannot_be_had(monkeypatch):
    """A failed fetch is the host's fault and keeps its sentence."""

    def default_guest(**_options):
        cause = guest_assets.Cause.NO_NETWORK
        raise guest_assets.GuestAssetsError(cause, "no network")

    monkeypatch.setattr(guest_assets, "default_guest", default_guest)
    with pytest.raises(HostError, match="no network; pass --kernel"):
        choose_payload(VmConfig(), soft=True)


@pytest.fixture
def memory():
    """Guest memory of 64 MiB."""
    with GuestMemory.from_ranges([(0, 64 * MIB)]) as made:
        yield made


@pytest.fixture
def tables():
    """ACPI tables of the standard machine."""
    return build_tables(AcpiConfig())


def test_everything_is_where_the_zero_page_says(memory, tables, elf_kernel):
    """Command line, initramfs, memory map and ACPI root are found through the zero page."""
    payload = Payload(elf_kernel(b"\xf4"), b"initramfs", "console=ttyS0")
    kernel = load(payload, memory, 64 * MIB, tables)
    page = memory.read(0x7000, 4096)
    (cmdline,) = struct.unpack_from("<I", page, 0x228)
    initramfs, size = struct.unpack_from("<II", page, 0x218)
    (rsdp,) = struct.unpack_from("<Q", page, 0x70)
    assert memory.read(kernel.entry, 1) == b"\xf4"
    assert memory.read(cmdline, 14) == b"console=ttyS0\0"
    assert memory.read(initramfs, size) == b"initramfs"
    assert memory.read(rsdp, 8) == b"RSD PTR "
    assert page[0x1E8] == 5
    assert memory.read(0xFFFF0, 1) == b"\xb0"


def test_cmdline_too_long(memory, tables, elf_kernel):
    """A command line that the kernel would cut off is refused."""
    payload = Payload(elf_kernel(b"\xf4"), None, "x" * 2048)
    with pytest.raises(UsageError, match="--cmdline"):
        load(payload, memory, 64 * MIB, tables)


def test_damaged_kernel(memory, tables, tmp_path):
    """A file that is no kernel is the caller's, named with its flag."""
    path = tmp_path / "text"
    path.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(InputFileError) as caught:
        load(Payload(path, None, ""), memory, 64 * MIB, tables)
    assert (caught.value.flag, caught.value.path) == ("--kernel", path)


@pytest.mark.parametrize("size", [8, 20])
def test_too_little_memory_for_the_default_guest(tables, elf_kernel, size):
    """Whoever named no kernel is told of the memory, not of a file in a cache."""
    payload = Payload(elf_kernel(b"\xf4"), bytes(16 * MIB), "", is_default=True)
    with (
        GuestMemory.from_ranges([(0, size * MIB)]) as memory,
        pytest.raises(OptionError, match=f"--memory 'size={size}M': too little"),
    ):
        load(payload, memory, size * MIB, tables)
