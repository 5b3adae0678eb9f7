"""Files for what a guest says: locked when they are opened, emptied when they are told to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from virtio_devices import DiskImageError, RawImage
from vmm_reference import (
    ConsoleConfig,
    ConsoleMode,
    HypervisorChoice,
    MemoryConfig,
    PayloadConfig,
    SerialConfig,
    SerialMode,
    Vm,
    VmConfig,
)
from vmm_reference.errors import InputFileError
from vmm_reference.output_file import OutputFile
from vmm_reference.virtio_config import DiskConfig

POWER_OFF = bytes.fromhex("ba00060000 b034 ee f4")
CONTENT = bytes(range(256)) * 16


@pytest.fixture
def path(tmp_path):
    """A file that somebody needs."""
    path = tmp_path / "precious"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def open_file():
    """A function that opens a file for output."""
    opened = []

    def open_file(path):
        opened.append(OutputFile("--serial", path))
        return opened[-1]

    yield open_file
    for file in opened:
        file.close()


def test_a_file_is_emptied_when_told(open_file, path):
    """Opening loses nothing; after `empty`, what is written is all there is."""
    file = open_file(path)
    assert path.read_bytes() == CONTENT
    file.empty()
    os.write(file.fileno(), b"said")
    assert path.read_bytes() == b"said"


def test_a_file_is_made(open_file, tmp_path):
    """What is not there begins empty."""
    open_file(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b""


def test_a_file_is_locked_until_it_is_closed(open_file, path):
    """No second output and no disk uses it, written to or not."""
    file = open_file(path)
    with pytest.raises(InputFileError, match=r"--serial .*precious is in use already"):
        open_file(path)
    with pytest.raises(DiskImageError, match="is in use already"):
        RawImage(path, read_only=True)
    file.close()
    file.close()
    open_file(path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_disk_in_use_is_no_output(open_file, path, read_only):
    """What a guest says does not go over a disk."""
    with (
        RawImage(path, read_only=read_only),
        pytest.raises(InputFileError, match="is in use already"),
    ):
        open_file(path)
    assert path.read_bytes() == CONTENT


def test_devices_are_shared(open_file):
    """Any number of machines say what they say to /dev/null."""
    for _ in range(2):
        file = open_file(Path(os.devnull))
        file.empty()
        os.write(file.fileno(), b"x")


def test_a_fifo_needs_a_reader(open_file, tmp_path):
    """Without one it is refused instead of waited for; with one it is written as ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(InputFileError, match=r"--serial .*fifo is a FIFO that nobody reads"):
        open_file(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        file = open_file(fifo)
        file.empty()
        assert os.get_blocking(file.fileno())  # a slow reader is waited for
        os.write(file.fileno(), b"said")
        assert os.read(reader, 16) == b"said"
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/no/such/folder/x", "no such file or directory"), ("/", "is a directory")],
)
def test_unwritable_files(open_file, path, reason):
    """A sentence with the path in it."""
    with pytest.raises(InputFileError) as caught:
        open_file(Path(path))
    assert str(caught.value) == f"--serial {path} cannot be written: {reason}"


@pytest.fixture
def machine(elf_kernel):
    """A function that describes a machine whose guest powers off."""
    kernel = elf_kernel(POWER_OFF)

    def machine(**options):
        serial = options.pop("serial", SerialConfig(SerialMode.NULL))
        return VmConfig(
            payload=PayloadConfig(kernel=kernel),
            memory=MemoryConfig(32 << 20),
            hypervisor=HypervisorChoice.SOFT,
            serial=serial,
            **options,
        )

    return machine


def outputs(path):
    """Each way to send what a guest says to `path`."""
    return [
        {"serial": SerialConfig(SerialMode.FILE, path)},
        {"console": ConsoleConfig(ConsoleMode.FILE, path)},
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["serial", "console"])
def test_a_machine_empties_its_log(machine, path, which):
    """A machine that starts begins its log anew."""
    with Vm(machine(**outputs(path)[which])) as vm:
        vm.run()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("which", [0, 1], ids=["serial", "console"])
@pytest.mark.parametrize("disk", ["missing", "precious"])
def test_a_machine_that_cannot_be_made_loses_nothing(machine, path, which, disk):
    """A missing disk costs no log, and a disk that is also the log is not emptied."""
    disks = (DiskConfig(path.with_name(disk)),)
    with pytest.raises(InputFileError, match=f"--disk .*{disk} "):
        Vm(machine(disks=disks, **outputs(path)[which])).build()
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("which", [0, 1], ids=["serial", "console"])
def test_a_running_machine_keeps_its_disk(machine, path, which):
    """Another machine's output does not go over it."""
    with Vm(machine(disks=(DiskConfig(path),))) as running:
        running.build()
        with pytest.raises(InputFileError, match="precious is in use already"):
            Vm(machine(**outputs(path)[which])).build()
        assert path.read_bytes() == CONTENT


def test_one_file_for_both_consoles(machine, path):
    """Two outputs would write over each other."""
    serial, console = outputs(path)
    with pytest.raises(InputFileError, match=r"--console .*precious is in use already"):
        Vm(machine(**serial, **console)).build()
    assert path.read_bytes() == CONTENT
