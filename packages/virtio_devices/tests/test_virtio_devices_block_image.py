"""Raw images: what is opened, and that the bytes in the file are the bytes of the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from virtio_devices import Backend, DiskImageError, RawImage
from virtio_devices.block.bounce import write_bounced
from vm_memory import GuestMemory

BASE = 0x10000


@pytest.fixture
def guest():
    """2 MiB of memory in two adjacent regions with dirty bitmaps."""
    ranges = [(0, 0x11000), (0x11000, 0x1EF000)]
    with GuestMemory.from_ranges(ranges, track_dirty=True) as memory:
        yield memory


@pytest.fixture
def path(tmp_path):
    """A file of 64 KiB in which each 512 bytes are different."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(bytes([index + 1]) * 512 for index in range(128)))
    return path


def scattered(count, size, start=BASE):
    """`count` pieces of `size` bytes with a gap of one page between any two."""
    return [(start + index * (size + 0x1000), size) for index in range(count)]


def contents(memory, spans):
    return b"".join(memory.read(*span) for span in spans)


@pytest.fixture(params=[False, True], ids=["cached", "direct"])
def image(request, path):
    """The file, opened for writing, through the page cache and past it."""
    try:
        image = RawImage(path, direct=request.param)
    except DiskImageError as error:
        pytest.skip(f"no O_DIRECT here: {error}")
    with image:
        yield image


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("shift", [0, 8], ids=["aligned", "misaligned"])
def test_read_fills_the_pieces_in_order(image, guest, path, count, shift):
    """Whatever the pieces are: across regions, any number of them, aligned for O_DIRECT or not."""
    size = 512 if count == 100 else 4096
    spans = scattered(count, size, BASE + 0xFF0 - shift if count == 1 else BASE + shift)
    image.read(guest, spans, 1024)
    assert contents(guest, spans) == path.read_bytes()[1024 : 1024 + count * size]


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("shift", [0, 8], ids=["aligned", "misaligned"])
def test_write_takes_the_pieces_in_order(image, guest, path, count, shift):
    """Exactly the range of the request changes."""
    before = path.read_bytes()
    size = 512 if count == 100 else 4096
    spans = scattered(count, size, BASE + shift)
    for number, (address, length) in enumerate(spans):
        guest.write(address, bytes([200 + number % 50]) * length)
    image.write(guest, spans, 1024)
    end = 1024 + count * size
    assert path.read_bytes() == before[:1024] + contents(guest, spans) + before[end:]


def test_more_pieces_than_one_call_takes(image, guest, path):
    """A request may have more pieces than readv(2) takes."""
    spans = [(BASE + 16 * index, 8) for index in range(2048)]
    image.read(guest, spans, 0)
    assert contents(guest, spans) == path.read_bytes()[: 8 * 2048]


def test_reading_marks_exactly_what_was_filled(guest, path):
    """Dirty pages are those of the pieces."""
    guest.get_and_reset_dirty()
    with RawImage(path) as image:
        image.read(guest, [(0x20000, 512), (0x30FFF, 513)], 0)
    assert guest.get_and_reset_dirty() == [(0x20000, 0x1000), (0x30000, 0x2000)]


def test_large_requests_are_moved_in_portions(image, guest, path):
    """What is bounced is held a portion at a time; the bytes are right across the portions."""
    os.truncate(path, 4 << 20)
    data = bytes(index * 7 & 0xFF for index in range(3 * 512)) * 700
    size = len(data) // 512 * 512
    guest.write(BASE + 4, data[:size])
    image.write(guest, [(BASE + 4, size)], 512)
    assert path.read_bytes()[512 : 512 + size] == data[:size]
    guest.write(BASE + 4, bytes(size))
    image.read(guest, [(BASE + 4, 1000), (BASE + 1004, size - 1000)], 512)
    assert guest.read(BASE + 4, size) == data[:size]


def test_a_file_that_shrank_is_an_error(image, guest, path):
    """An end in the middle of a request is EIO, not silence."""
    os.truncate(path, 1024)
    with pytest.raises(OSError, match="ends before"):
        image.read(guest, [(BASE, 512), (BASE + 512, 1024)], 512)


def test_a_full_disk_is_an_error(guest):
    """ENOSPC reaches the caller, also after a part was written (RLIMIT_FSIZE stands in)."""
    script = """
import errno, resource, signal, tempfile
from virtio_devices import RawImage
from vm_memory import GuestMemory
with tempfile.NamedTemporaryFile() as file, GuestMemory.from_ranges([(0, 0x10000)]) as memory:
    file.truncate(0x8000)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with RawImage(file.name) as image:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0x1200, resource.RLIM_INFINITY))
        try:
            image.write(memory, [(0, 0x800), (0x1000, 0x2000)], 0x800)
        except OSError as error:
            print(errno.errorcode[error.errno])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"EFBIG\n"


def test_a_part_of_a_bounced_write_is_an_error(guest, path, monkeypatch):
    """The host took less than a portion: EIO, not silence."""
    monkeypatch.setattr(os, "pwrite", lambda _fd, data, _offset: len(data) - 512)
    with path.open("r+b") as file, pytest.raises(OSError, match="a part of a request") as caught:
        write_bounced(file.fileno(), guest, [(BASE, 4096)], 0)
    assert caught.value.errno == errno.EIO


def test_zeroes_read_as_zeros(image, guest, path):
    """With and without giving the room back, of any size."""
    before = path.read_bytes()
    image.write_zeroes(4096, 8192, unmap=True)
    image.write_zeroes(16384, 512, unmap=False)
    image.write_zeroes(0, 0, unmap=True)
    expected = bytearray(before)
    expected[4096:12288] = bytes(8192)
    expected[16384:16896] = bytes(512)
    assert path.read_bytes() == expected
    image.read(guest, [(BASE, 4096)], 4096)
    assert guest.read(BASE, 4096) == bytes(4096)


def test_zeroes_where_the_file_system_has_no_way(image, path, monkeypatch):
    """Then they are written, over more than one portion too."""
    os.truncate(path, 4 << 20)
    monkeypatch.setattr("virtio_devices.block.allocation.Allocation.punch", lambda *_: False)
    monkeypatch.setattr("virtio_devices.block.allocation.Allocation.zero", lambda *_: False)
    path.write_bytes(b"\xff" * (4 << 20))
    image.discard(0, 4096)
    image.write_zeroes(4096, (3 << 20) - 4096, unmap=True)
    data = path.read_bytes()
    assert data == b"\xff" * 4096 + bytes((3 << 20) - 4096) + b"\xff" * (1 << 20)


def test_discard_gives_room_back(image, path):
    """The file has fewer blocks, and its size stays."""
    if not image.can_discard:
        pytest.skip("no holes in files here")
    before = path.stat()
    image.discard(0, 32768)
    image.discard(0, 0)
    after = path.stat()
    assert after.st_size == before.st_size
    assert after.st_blocks < before.st_blocks


def test_allocation_failures_are_errors(path):
    """What fallocate(2) says is not swallowed, but for "not supported"."""
    with RawImage(path, read_only=True) as image, pytest.raises(OSError, match="descriptor") as e:
        image.discard(0, 512)
    assert e.value.errno == errno.EBADF


def test_flush_is_fdatasync(image, monkeypatch):
    """The host is told to make it stable."""
    flushed = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    image.flush()
    assert flushed == [image.fileno()]


def test_sizes(path):
    """A file has sectors of 512 bytes in blocks of 4 KiB."""
    with RawImage(path) as image:
        sizes = image.sizes
        assert (sizes.size, sizes.block_size, sizes.physical_block_size) == (65536, 512, 4096)
        backend: Backend = image
        assert not backend.read_only


def test_read_only_is_read_only(path, guest):
    """The file is not even opened for writing."""
    with RawImage(path, read_only=True) as image:
        assert image.read_only
        assert not image.can_discard
        with pytest.raises(OSError, match="descriptor"):
            image.write(guest, [(BASE, 512)], 0)


def test_a_file_may_look_like_anything(path):
    """The contents decide nothing: an image that begins as qcow2 does is as raw as any."""
    path.write_bytes(b"QFI\xfb\0\0\0\3".ljust(4096, b"\0"))
    with RawImage(path) as image:
        assert image.sizes.size == 4096


@pytest.mark.parametrize(
    ("size", "problem"),
    [(0, "is empty"), (1000, "has 1000 bytes"), (513, "no whole number of sectors of 512")],
)
def test_files_that_are_no_disk(path, size, problem):
    """A sentence that begins with the file says why."""
    os.truncate(path, size)
    with pytest.raises(DiskImageError, match=problem) as caught:
        RawImage(path)
    assert str(caught.value).startswith(f"{path} ")
    assert caught.value.path == path


def test_other_things_are_no_disk(tmp_path):
    """Folders and FIFOs are refused, without waiting for anybody."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DiskImageError, match="neither a file nor a block device"):
        RawImage(tmp_path / "fifo")
    with pytest.raises(DiskImageError, match="neither"):
        RawImage("/dev/null")
    with pytest.raises(IsADirectoryError):
        RawImage(tmp_path)
    with pytest.raises(FileNotFoundError):
        RawImage(tmp_path / "missing")


def test_two_writers_are_refused(path):
    """Two machines that write one image destroy it; two that read it do not."""
    with RawImage(path):
        for read_only in (False, True):
            with pytest.raises(DiskImageError, match="in use"):
                RawImage(path, read_only=read_only)
    readers = (RawImage(path, read_only=True), RawImage(path, read_only=True))
    with pytest.raises(DiskImageError, match="in use"):
        RawImage(path)
    for reader in readers:
        reader.close()
    RawImage(path).close()


def test_close_may_be_called_again(path):
    """And says so in its representation."""
    image = RawImage(path)
    assert repr(image) == f"<RawImage {str(path)!r}>"
    image.close()
    image.close()
    assert repr(image) == f"<RawImage {str(path)!r} closed>"


@pytest.mark.root
def test_a_block_device_of_the_host(path, guest):
    """A loop device tells its own block sizes, and its bytes are the disk's."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a loop device")
    command = ["losetup", "--find", "--show", str(path)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs root for a loop device: {error}")
    device = made.stdout.strip()
    try:
        with RawImage(device) as image:
            assert image.sizes.size == 65536
            assert image.sizes.block_size in {512, 4096}
            guest.write(BASE, b"w" * 4096)
            image.write(guest, [(BASE, 4096)], 8192)
            image.write_zeroes(0, 4096, unmap=True)
            image.discard(4096, 4096)
            image.flush()
        data = path.read_bytes()
        assert data[8192:12288] == b"w" * 4096
        assert data[:4096] == bytes(4096)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
