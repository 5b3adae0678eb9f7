"""The block device, driven through its registers by a driver (virtio 1.2 §5.2)."""

from __future__ import annotations

import errno
import struct

import pytest

from virtio_devices import Block, BlockFeature, DeviceStatus, DiskSizes, VirtioUsageError
from virtio_devices.block.config import MAX_SEGMENT_SIZE, max_request_bytes
from virtio_devices.testing import SplitDriver

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
SECTORS = 64


class Memory:
    """A disk in memory that writes down what it is told, and fails when it is told to."""

    def __init__(self, sectors=SECTORS, *, read_only=False, can_discard=True, block_size=512):
        self.sizes = DiskSizes(sectors * 512, block_size)
        self.read_only = read_only
        self.can_discard = can_discard
        self.bytes = bytearray(index // 512 + 1 & 0xFF for index in range(sectors * 512))
        self.calls = []
        self.failure = None

    def _note(self, *call):
        self.calls.append(call)
        if self.failure is not None:
            raise OSError(self.failure, "as told")

    def read(self, memory, spans, offset):
        self._note("read", offset)
        for address, size in spans:
            memory.write(address, self.bytes[offset : offset + size])
            offset += size

    def write(self, memory, spans, offset):
        self._note("write", offset)
        for address, size in spans:
            self.bytes[offset : offset + size] = memory.read(address, size)
            offset += size

    def flush(self):
        self._note("flush")

    def discard(self, offset, size):
        self._note("discard", offset, size)

    def write_zeroes(self, offset, size, *, unmap):
        self._note("write_zeroes", offset, size, unmap)
        self.bytes[offset : offset + size] = bytes(size)

    def close(self):
        self._note("close")


@pytest.fixture
def backend():
    """64 sectors; sector n is full of n + 1."""
    return Memory()


def extent(sector, sectors, flags=0):
    return struct.pack("<QII", sector, sectors, flags)


# What the driver sees before its first request


def test_identity(disk, backend):
    """Device 2 with its queues."""
    driver = disk(backend, queues=3).machine.driver
    assert driver.read(0x008) == 2
    sizes = []
    for queue in range(4):
        driver.write(0x030, queue)
        sizes.append(driver.read(0x034))
    assert sizes == [256, 256, 256, 0]


def test_configuration_space(disk):
    """Every field of §5.2.4 that is offered, little-endian, at its place."""
    driver = disk(Memory(sectors=80, block_size=1024), queues=2, queue_size=64).machine.driver
    config = driver.read_config(0, 60)
    assert struct.unpack_from("<QII", config) == (80, MAX_SEGMENT_SIZE, 62)
    assert struct.unpack_from("<IBBHI", config, 20) == (1024, 2, 0, 4, 0)
    assert config[32] == 1
    assert struct.unpack_from("<H", config, 34) == (2,)
    assert struct.unpack_from("<III", config, 36) == (1 << 22, 16, 2)
    assert struct.unpack_from("<IIB", config, 48) == (1 << 17, 1, 1)


def test_features_follow_the_disk():
    """Nothing is offered that the disk cannot do."""

    def offered(backend, **options):
        return BlockFeature(Block(backend, **options).features)

    always = (
        BlockFeature.SIZE_MAX
        | BlockFeature.SEG_MAX
        | BlockFeature.BLK_SIZE
        | BlockFeature.FLUSH
        | BlockFeature.TOPOLOGY
    )
    writable = always | BlockFeature.CONFIG_WCE | BlockFeature.WRITE_ZEROES
    assert offered(Memory(read_only=True)) == always | BlockFeature.RO
    assert offered(Memory(can_discard=False)) == writable
    assert offered(Memory()) == writable | BlockFeature.DISCARD
    assert offered(Memory(), queues=2) == writable | BlockFeature.DISCARD | BlockFeature.MQ


@pytest.mark.parametrize("options", [{"serial": b"x" * 21}, {"queues": 0}, {"queues": 65}])
def test_impossible_disks_are_refused(backend, options):
    """A caller's mistake is an error before any guest runs."""
    with pytest.raises(VirtioUsageError):
        Block(backend, **options)


# Requests


def test_read_gives_sectors(disk, backend):
    """IN fills the data and says OK."""
    assert disk(backend).request(IN, 3, room=1024) == (OK, b"\4" * 512 + b"\5" * 512)


def test_write_changes_sectors(disk, backend):
    """OUT writes exactly its sectors."""
    before = bytes(backend.bytes)
    assert disk(backend).request(OUT, 63, b"\xaa" * 512) == (OK, b"")
    assert backend.bytes == before[: 63 * 512] + b"\xaa" * 512


def test_layout_means_nothing(disk, backend):
    """Header, data and status may be divided into buffers anyhow (§2.7.4.1)."""
    guest = disk(backend)
    header = struct.pack("<IIQ", IN, 0, 1)
    assert guest.submit([header[:3], b"", header[3:]], [100, 413]) == b"\2" * 512 + b"\0"
    header = struct.pack("<IIQ", OUT, 0, 1)
    assert guest.submit([header + b"\x55" * 510, b"\x55" * 2], [1], indirect=True) == b"\0"
    assert backend.bytes[512:1024] == b"\x55" * 512


def test_reading_nothing_is_allowed(disk, backend):
    """A request without data is within any disk that holds its sector."""
    assert disk(backend).request(IN, SECTORS) == (OK, b"")


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize(
    ("sector", "size"),
    [
        pytest.param(SECTORS, 512, id="behind the end"),
        pytest.param(SECTORS - 1, 1024, id="across the end"),
        pytest.param(2**64 - 1, 512, id="an offset beyond 64 bits"),
        pytest.param(2**55, 512, id="an offset of 2^64"),
        pytest.param(0, 511, id="a part of a sector"),
    ],
)
def test_what_is_not_on_the_disk_is_an_error(disk, backend, kind, sector, size):
    """IOERR, and the disk is not asked."""
    guest = disk(backend)
    data = {"data": b"x" * size} if kind == OUT else {"room": size}
    status, _data = guest.request(kind, sector, **data)
    assert status == IOERR
    assert backend.calls == []


@pytest.mark.parametrize(("queue_size", "most"), [(2, 1), (64, 62), (1024, 254)])
def test_limits_follow_the_queue(queue_size, most):
    """Header and status need a descriptor each; a long queue does not make requests longer."""
    assert max_request_bytes(queue_size) == most * MAX_SEGMENT_SIZE


def test_a_request_beyond_the_limits_is_an_error(disk, backend, monkeypatch):
    """SIZE_MAX times SEG_MAX bounds what one request moves, whatever its buffers say."""
    monkeypatch.setattr("virtio_devices.block.device.max_request_bytes", lambda _size: 1024)
    guest = disk(backend)
    assert guest.request(IN, 0, room=1536)[0] == IOERR
    assert guest.request(OUT, 0, b"x" * 1536)[0] == IOERR
    assert backend.calls == []
    assert guest.request(IN, 0, room=1024)[0] == OK


def test_flush_reaches_the_disk(disk, backend):
    """A flush is a flush."""
    assert disk(backend).request(FLUSH) == (OK, b"")
    assert backend.calls == [("flush",)]


def test_flush_of_a_read_only_disk_is_done(disk):
    """There is nothing to flush, and nothing wrong."""
    backend = Memory(read_only=True)
    assert disk(backend).request(FLUSH) == (OK, b"")
    assert backend.calls == []


@pytest.mark.parametrize("kind", [OUT, DISCARD, WRITE_ZEROES])
def test_read_only_disks_are_not_written(disk, kind):
    """IOERR, and the disk is not asked (§5.2.6.2)."""
    backend = Memory(read_only=True)
    data = b"x" * 512 if kind == OUT else extent(0, 1)
    assert disk(backend).request(kind, 0, data) == (IOERR, b"")
    assert backend.calls == []


@pytest.mark.parametrize("serial", [b"", b"disk-7", b"a serial of 20 bytes"])
def test_serial(disk, backend, serial):
    """GET_ID answers 20 bytes, padded with zeros; a smaller buffer gets their beginning."""
    guest = disk(backend, serial=serial)
    assert guest.request(GET_ID, room=20) == (OK, serial.ljust(20, b"\0"))
    assert guest.request(GET_ID, room=4) == (OK, serial.ljust(20, b"\0")[:4])
    assert guest.request(GET_ID, room=24)[0] == OK


@pytest.mark.parametrize("kind", [2, 3, 5, 14, 16, 0x8000_0000, 0xFFFF_FFFF])
def test_unknown_types_are_unsupported(disk, backend, kind):
    """The status says so (§5.2.6)."""
    assert disk(backend).request(kind, room=512)[0] == UNSUPP


def test_discard(disk, backend):
    """Each range reaches the disk, in order."""
    ranges = extent(1, 2) + extent(60, 4) + extent(0, 0)
    assert disk(backend).request(DISCARD, 0, ranges) == (OK, b"")
    assert backend.calls == [
        ("discard", 512, 1024),
        ("discard", 60 * 512, 2048),
        ("discard", 0, 0),
    ]


@pytest.mark.parametrize("unmap", [0, 1])
def test_write_zeroes(disk, backend, unmap):
    """Zeros where they were asked for, and the driver's wish about the room behind them."""
    assert disk(backend).request(WRITE_ZEROES, 0, extent(1, 2, unmap)) == (OK, b"")
    assert backend.calls == [("write_zeroes", 512, 1024, bool(unmap))]
    assert backend.bytes[:2048] == b"\1" * 512 + bytes(1024) + b"\4" * 512


@pytest.mark.parametrize(
    ("kind", "ranges", "status"),
    [
        pytest.param(DISCARD, extent(0, 1, 1), UNSUPP, id="unmap with discard"),
        pytest.param(DISCARD, extent(0, 1, 2), UNSUPP, id="unknown flag"),
        pytest.param(WRITE_ZEROES, extent(0, 1, 2), UNSUPP, id="unknown flag of zeroes"),
        pytest.param(DISCARD, extent(0, 1)[:-1], IOERR, id="half a range"),
        pytest.param(DISCARD, b"", IOERR, id="no range"),
        pytest.param(DISCARD, extent(0, 1) * 17, IOERR, id="too many"),
        pytest.param(WRITE_ZEROES, extent(0, 1) * 2, IOERR, id="too many of zeroes"),
        pytest.param(DISCARD, extent(SECTORS, 1), IOERR, id="behind the end"),
        pytest.param(DISCARD, extent(0, 1) + extent(2**64 - 1, 1), IOERR, id="one is outside"),
        pytest.param(WRITE_ZEROES, extent(0, (1 << 17) + 1), IOERR, id="too long"),
    ],
)
def test_wrong_ranges_change_nothing(disk, backend, kind, ranges, status):
    """All ranges are checked before the first is touched."""
    assert disk(backend).request(kind, 0, ranges) == (status, b"")
    assert backend.calls == []


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_features_that_were_not_negotiated_do_not_exist(disk, backend, kind):
    """UNSUPP for what the driver did not accept."""
    assert disk(backend, features=0).request(kind, 0, extent(0, 1)) == (UNSUPP, b"")
    assert backend.calls == []


# Failures


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EINVAL, errno.EFAULT])
@pytest.mark.parametrize("kind", [IN, OUT, FLUSH, DISCARD, WRITE_ZEROES])
def test_host_failures_are_io_errors(disk, backend, kind, number):
    """The driver is told, the VMM is told why, and the next request is served."""
    reports = []
    guest = disk(backend, report=reports.append)
    backend.failure = number
    data = {OUT: b"x" * 512, DISCARD: extent(0, 1), WRITE_ZEROES: extent(0, 1)}.get(kind, b"")
    assert guest.request(kind, 0, data, room=512 if kind == IN else 0)[0] == IOERR
    assert [report.errno for report in reports] == [number]
    backend.failure = None
    assert guest.request(IN, 0, room=512) == (OK, b"\1" * 512)


def test_no_whole_header_is_an_io_error(disk, backend):
    """There is room for a status, so the driver is told."""
    assert disk(backend).submit([b"\0" * 15], [513])[-1] == IOERR


@pytest.mark.parametrize("writable", [[], [0]])
def test_no_room_for_a_status_needs_a_reset(disk, backend, writable):
    """The driver cannot be told, so the device asks for a reset and says why."""
    guest = disk(backend)
    assert guest.submit([struct.pack("<IIQ", FLUSH, 0, 0)], writable) is None
    assert guest.machine.transport.status & DeviceStatus.DEVICE_NEEDS_RESET
    assert "0x1 are needed" in str(guest.machine.transport.failure)
    assert backend.calls == []


# Cache mode (§5.2.5.2, §5.2.6.2)


def test_a_driver_without_flush_gets_stable_writes(disk, backend):
    """Each write is stable when it is told, and the cache mode reads as write-through."""
    guest = disk(backend, features=int(BlockFeature.CONFIG_WCE))
    assert guest.machine.driver.read_config(32, 1) == b"\0"
    guest.request(OUT, 0, b"x" * 512)
    assert backend.calls == [("write", 0), ("flush",)]


def test_the_driver_chooses_the_cache_mode(disk, backend):
    """Write-back until the driver says otherwise, and again when it says so."""
    guest = disk(backend)
    driver = guest.machine.driver
    guest.request(OUT, 0, b"x" * 512)
    driver.write(0x100 + 32, 0, 1)
    assert driver.read_config(32, 1) == b"\0"
    guest.request(OUT, 1, b"x" * 512)
    guest.request(IN, 1, room=512)
    driver.write(0x100 + 32, 1, 1)
    guest.request(OUT, 2, b"x" * 512)
    names = [call[0] for call in backend.calls]
    assert names == ["write", "write", "flush", "read", "write"]


def test_other_fields_are_not_the_drivers(disk, backend):
    """Writes beside the cache mode, or without its feature, change nothing."""
    driver = disk(backend).machine.driver
    before = driver.read_config(0, 60)
    for offset, size in ((0, 8), (31, 2), (33, 1), (32, 2), (59, 1)):
        driver.write(0x100 + offset, 0, size)
    assert driver.read_config(0, 60) == before
    driver = disk(backend, features=int(BlockFeature.FLUSH)).machine.driver
    driver.write(0x100 + 32, 0, 1)
    assert driver.read_config(0, 60) == before


# Life


def test_a_second_queue_works(memory, machine, backend):
    """With MQ each queue carries requests of its own."""
    started = machine(Block(backend, queues=2))
    started.driver.negotiate(int(BlockFeature.MQ))
    queues = [SplitDriver(memory, 0x1000 + 0x8000 * index, 8, span=0x8000) for index in range(2)]
    for index, queue in enumerate(queues):
        started.driver.add_queue(index, queue)
    started.driver.start()
    for index, queue in enumerate(queues):
        queue.add([struct.pack("<IIQ", IN, 0, index)], [512, 1])
        started.driver.notify(index)
    started.run()
    answers = [[used.data for used in queue.collect()] for queue in queues]
    assert answers == [[b"\1" * 512 + b"\0"], [b"\2" * 512 + b"\0"]]


def test_a_reset_forgets_everything(disk, backend):
    """After a reset nothing is served, and the cache mode is what it was at first."""
    guest = disk(backend)
    guest.machine.driver.write(0x100 + 32, 0, 1)
    guest.queue.add([struct.pack("<IIQ", OUT, 0, 0), b"x" * 512], [1])
    guest.machine.driver.write(0x070, 0)
    assert not guest.machine.transport.process_queue(0)
    assert not guest.machine.transport.device.process_queue(0)
    assert guest.machine.driver.read_config(32, 1) == b"\1"
    assert backend.calls == []


def test_work_of_one_call_is_bounded(disk, backend):
    """Flushes count: a call ends before a queue full of them is done, and says that it goes on."""
    guest = disk(backend)
    for _ in range(30):
        guest.queue.add([struct.pack("<IIQ", FLUSH, 0, 0)], [1])
    assert guest.machine.transport.process_queue(0)
    first = len(backend.calls)
    assert 0 < first < 30
    while guest.machine.transport.process_queue(0):
        pass
    assert len(backend.calls) == 30
    assert len(guest.queue.collect()) == 30


def test_discards_of_one_call_are_bounded(disk, backend):
    """By their ranges: the host notes each of them, however many bytes it is about."""
    guest = disk(backend)
    for _ in range(10):
        header = struct.pack("<IIQ", DISCARD, 0, 0)
        guest.queue.add([header, extent(0, 1) * 16], [1], indirect=True)
    done = []
    while guest.machine.transport.process_queue(0):
        done.append(len(backend.calls))
    assert done[:2] == [64, 128]
    assert len(backend.calls) == 160


def test_zeroes_of_one_call_are_bounded(disk):
    """By their bytes, for the host may have to write them: 64 MiB are one request and one call."""

    class Large(Memory):
        def __init__(self):
            super().__init__()
            self.sizes = DiskSizes(1 << 30)

        def write_zeroes(self, offset, size, *, unmap):
            self._note("write_zeroes", offset, size, unmap)

    backend = Large()
    guest = disk(backend)
    for _ in range(3):
        header = struct.pack("<IIQ", WRITE_ZEROES, 0, 0)
        guest.queue.add([header, extent(0, 1 << 17)], [1])
    done = [(guest.machine.transport.process_queue(0), len(backend.calls)) for _ in range(4)]
    assert done == [(True, 1), (True, 2), (True, 3), (False, 3)]
