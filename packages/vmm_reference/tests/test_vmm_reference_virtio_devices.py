"""Making virtio devices out of a configuration, and what is said when that cannot be."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path

import pytest

from virtio_devices import Block, BlockFeature, DeviceFailed, Rng, SplitQueue
from virtio_devices.testing import SplitDriver
from vm_memory import GuestMemory
from vmm_reference import VmConfig
from vmm_reference.errors import InputFileError
from vmm_reference.virtio.device_memory import DeviceMemory
from vmm_reference.virtio.devices import VirtioDevices
from vmm_reference.virtio.reports import Reports
from vmm_reference.virtio_config import DiskConfig, RngConfig


class FakeBus:
    """Keeps what is attached."""

    def __init__(self):
        self.devices = {}
        self.names = []

    def attach(self, device, name, _loop):
        self.devices[name.partition(" ")[0]] = device
        self.names.append(name)


@pytest.fixture
def bus():
    return FakeBus()


@pytest.fixture
def make(bus):
    """A function that makes the devices of a configuration."""
    made = []

    def make(**options):
        made.append(VirtioDevices(VmConfig(**options), bus, pytest.fail))
        return made[-1]

    yield make
    for devices in made:
        devices.close()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8192))
    return path


def test_disks_are_made_in_order(make, bus, image, tmp_path):
    """Each as its flag says."""
    second = tmp_path / "second.img"
    second.write_bytes(bytes(512))
    make(disks=(DiskConfig(image, readonly=True), DiskConfig(second, num_queues=3, queue_size=16)))
    first, other = bus.devices["disk0"], bus.devices["disk1"]
    assert isinstance(first, Block)
    assert first.features & BlockFeature.RO
    assert other.queue_sizes == (16, 16, 16)


def test_a_disk_is_free_again_after_close(make, image):
    """Nobody else opens it meanwhile; afterwards anybody may."""
    devices = make(disks=(DiskConfig(image),))
    with pytest.raises(InputFileError, match=r"--disk .*disk\.img is in use already"):
        make(disks=(DiskConfig(image),))
    devices.close()
    devices.close()
    make(disks=(DiskConfig(image),))


def test_threads_start_and_stop(make, image):
    """Each device has its own."""
    devices = make(disks=(DiskConfig(image),), rng=RngConfig())
    devices.start()
    devices.stop()
    assert [loop._name for loop in devices._loops] == ["disk0", "rng"]


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("missing", None, "cannot be used: no such file or directory"),
        ("empty", 0, "is empty"),
        ("odd", 700, "has 700 bytes"),
    ],
)
def test_unusable_disks(make, tmp_path, name, size, reason):
    """A sentence that names the flag and the file."""
    path = tmp_path / name
    if size is not None:
        path.write_bytes(bytes(size))
    with pytest.raises(InputFileError) as caught:
        make(disks=(DiskConfig(path),))
    assert str(caught.value).startswith(f"--disk {path} {reason}")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop its rights")
def test_a_disk_that_can_only_be_read(make):
    """The way out is named."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are root's alone
        Path(folder).chmod(0o755)
        image = Path(folder, "disk.img")
        image.write_bytes(bytes(512))
        image.chmod(0o444)
        os.seteuid(65534)
        try:
            with pytest.raises(InputFileError) as caught:
                make(disks=(DiskConfig(image),))
        finally:
            os.seteuid(0)
    hint = "cannot be written: permission denied; readonly=on does without"
    assert str(caught.value) == f"--disk {image} {hint}"


def test_a_path_that_is_no_text(make):
    """Its bytes are shown."""
    with pytest.raises(InputFileError, match=r"--disk /no/\\xff\.img cannot be used: no such file"):
        make(disks=(DiskConfig(Path(os.fsdecode(b"/no/\xff.img"))),))


def test_what_a_device_stands_on_is_in_its_name(make, bus, image, caplog):
    """So that a warning says which disk is full; its reason has no number and no capital."""
    make(disks=(DiskConfig(image),))
    bus.devices["disk0"]._report(OSError(28, "No space left on device"))
    assert bus.names == [f"disk0 ({image})"]
    assert caplog.messages == [f"disk0 ({image}): no space left on device"]


def test_random_numbers_come_from_the_source(make, bus, tmp_path):
    """As many as are asked for; when the source ends, the device fails."""
    source = tmp_path / "numbers"
    source.write_bytes(b"xABCDEF")
    make(rng=RngConfig(source))
    rng = bus.devices["rng"]
    assert isinstance(rng, Rng)
    assert rng._source(4) == b"ABCD"
    with pytest.raises(DeviceFailed, match="no more random bytes"):
        rng._source(4)


def test_a_fifo_is_no_source(make, tmp_path):
    """Nobody may write it, and then the machine would neither start nor end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(InputFileError, match=r"--rng .*fifo is a FIFO"):
        make(rng=RngConfig(fifo))


@pytest.mark.parametrize("path", ["/does/not/exist", "/"])
def test_unusable_sources(make, path):
    """Found before the guest runs."""
    with pytest.raises(InputFileError, match=f"--rng {path} cannot be used"):
        make(rng=RngConfig(Path(path)))


@pytest.mark.parametrize("name", ["/dev/null", "empty"])
def test_a_source_without_anything(make, tmp_path, name):
    """Refused: a guest that reads /dev/hwrng would hang."""
    (tmp_path / "empty").touch()
    with pytest.raises(InputFileError, match=rf"--rng {tmp_path / name} has no bytes to give"):
        make(rng=RngConfig(tmp_path / name))


def test_a_source_that_fails_later(make, bus, tmp_path, monkeypatch):
    """The device says what the host said."""
    make(rng=RngConfig())

    def fail(_fd, _size):
        raise OSError(5, "Told so")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(DeviceFailed, match=r"cannot read /dev/urandom: told so$"):
        bus.devices["rng"]._source(1)


# Memory under an emulator


@pytest.fixture
def told():
    return []


@pytest.fixture
def device_memory(told):
    """Memory that tells of its writes."""
    with GuestMemory.from_ranges([(0, 0x4000)]) as memory:
        yield DeviceMemory.over(memory, lambda address, size: told.append((address, size)))


def test_everything_that_a_device_writes_is_told(device_memory, told, tmp_path):
    """After it was written, by every way in which bulk data come in."""
    file = tmp_path / "data"
    file.write_bytes(bytes(range(256)))
    fd = os.open(file, os.O_RDONLY)
    device_memory.write(0x10, b"four")
    assert device_memory.readv(fd, iter([(0x100, 4), (0x200, 8)]), 1) == 12
    assert device_memory.read_from_fd(0x300, fd, 16, 0) == 16
    os.close(fd)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.send(b"packet")
        assert device_memory.recvmsg(right, iter([(0x400, 2), (0x500, 30)]))[0] == 6
    assert told == [(0x10, 4), (0x100, 4), (0x200, 8), (0x300, 16), (0x400, 2), (0x500, 30)]
    assert device_memory.read(0x200, 2) == b"\5\6"


def test_what_c_code_writes_is_told(device_memory, told):
    """By the method that virtio_devices looks for."""
    device_memory.wrote(0x800, 512)
    assert told == [(0x800, 512)]


@pytest.mark.parametrize("indirect", [False, True])
def test_what_a_device_writes_into_a_chain_is_told(device_memory, told, indirect):
    """Each descriptor's part, although the stream over them is written in C."""
    driver = SplitDriver(device_memory, 0x1000, 8, span=0x2000)
    queue = SplitQueue(device_memory, driver.layout, indirect=indirect)
    driver.add([b"request"], [10, 20, 30], indirect=indirect)
    told.clear()
    chain = queue.pop()
    chain.writer.write(b"a" * 15)
    chain.writer.write(b"b" * 25)
    assert [size for _address, size in told] == [10, 5, 15, 10]
    assert b"".join(device_memory.read(*span) for span in told) == b"a" * 15 + b"b" * 25
    told.clear()
    queue.add_used(chain, 40)
    assert told == []


def test_failed_reads_are_told_too(device_memory, told):
    """Some of it may have been written."""
    with pytest.raises(OSError, match="descriptor"):
        device_memory.readv(-1, [(0, 4)])
    with pytest.raises(OSError, match="descriptor"):
        device_memory.read_from_fd(8, -1, 4)
    assert told == [(0, 4), (8, 4)]


def test_reading_is_not_told(device_memory, told):
    """Nor are the fields of rings."""
    device_memory.read(0, 8)
    device_memory.store(0, 1, 2)
    assert told == []


# What is logged


def test_reports_are_limited(caplog, monkeypatch):
    """Ten lines in five seconds, then the number of those that were left out."""
    now = [10**10]
    monkeypatch.setattr("vmm_reference.virtio.reports.time.monotonic_ns", lambda: now[0])
    reports = Reports(logging.getLogger("vmm_reference.test"), "disk0")
    for number in range(25):
        reports(OSError(number, "x"))
    assert len(caplog.messages) == 10
    assert caplog.messages[0] == "disk0: x"
    now[0] += 6 * 10**9
    reports(OSError(1, "later"))
    assert caplog.messages[10:] == ["disk0: 15 more like these", "disk0: later"]
