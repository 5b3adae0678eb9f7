"""A flushed write is never lost: not when the VMM is killed, not when the host loses power."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time
from contextlib import ExitStack

import pytest

from virtio_devices import Block, MmioTransport, RawImage
from virtio_devices.testing import InterruptCounter, MmioDriver, SplitDriver
from vm_memory import GuestMemory

SECTORS = 64
WRITE, FLUSH, WRITE_ZEROES = 1, 4, 13
FLUSH_FEATURE, WRITE_ZEROES_FEATURE = 1 << 9, 1 << 14
_mark = struct.Struct("<QQ")  # which sector, which write


def sector_bytes(sector, version):
    """512 bytes in which a torn or misplaced write shows; version 0 is a sector of zeros."""
    return _mark.pack(sector, version) * 32 if version else bytes(512)


def versions(path):
    """Which write each sector of an image holds; fails on a sector that no write made."""
    data = path.read_bytes()
    found = []
    for sector in range(SECTORS):
        content = data[512 * sector : 512 * (sector + 1)]
        version = _mark.unpack_from(content)[1]
        assert content == sector_bytes(sector, version)
        found.append(version)
    return found


class Load:
    """A guest that writes and flushes at random, and knows what it was told.

    Attributes:
        newest: the version of each sector that was last written, told or not.
        flushed: the version of each sector when the last flush that came back was begun.
    """

    def __init__(self, stack, path, seed, *, features=FLUSH_FEATURE | WRITE_ZEROES_FEATURE):
        self.random = random.Random(seed)  # noqa: S311 - a load, not a secret
        self.newest = [0] * SECTORS
        self.flushed = [0] * SECTORS
        self._version = 0
        memory = stack.enter_context(GuestMemory.from_ranges([(0, 0x40000)]))
        image = stack.enter_context(RawImage(path))
        self._transport = MmioTransport(Block(image), memory, InterruptCounter(), kick=bool)
        driver = MmioDriver(self._transport)
        driver.negotiate(features)
        self._queue = SplitDriver(memory, 0x1000, 64, span=0x3F000)
        driver.add_queue(0, self._queue)
        driver.start()

    def step(self):
        """Some writes at once, and then perhaps a flush; True if one came back."""
        before = list(self.newest)
        for _ in range(self.random.randint(1, 8)):
            self._write()
        together = self.random.random() < 0.5  # a flush covers what came back before it
        if not together:
            self._run()
            before = list(self.newest)
        if self.random.random() < 0.6:
            self._queue.add([struct.pack("<IIQ", FLUSH, 0, 0)], [1])
            self._run()
            self.flushed = before
            return True
        self._run()
        return False

    def _write(self):
        self._version += 1
        first = self.random.randrange(SECTORS)
        count = self.random.randint(1, min(4, SECTORS - first))
        for sector in range(first, first + count):
            self.newest[sector] = self._version
        data = b"".join(sector_bytes(first + index, self._version) for index in range(count))
        self._queue.add([struct.pack("<IIQ", WRITE, 0, first), data], [1])

    def _run(self):
        while self._transport.process_queue(0):
            pass
        assert {used.data for used in self._queue.collect()} <= {b"\0"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(512 * SECTORS))
    return path


# Power


class VolatileCache:
    """Stands in for a host that loses what no fdatasync has covered: `stable` is what is left."""

    def __init__(self, path, stable):
        self._path = path
        self._stable = stable
        self.fdatasync(-1)

    def fdatasync(self, _fd):
        self._stable.write_bytes(self._path.read_bytes())


@pytest.mark.parametrize("seed", range(40))
def test_power_loss_keeps_flushed_writes(path, tmp_path, monkeypatch, seed):
    """After any number of steps the stable bytes hold every write that a flush has covered."""
    stable = tmp_path / "stable"
    cache = VolatileCache(path, stable)
    monkeypatch.setattr(os, "fdatasync", cache.fdatasync)
    with ExitStack() as stack:
        load = Load(stack, path, seed)
        for _ in range(25):
            load.step()
            kept = versions(stable)
            pairs = zip(kept, load.flushed, load.newest, strict=True)
            assert all(flushed <= held <= newest for held, flushed, newest in pairs)


@pytest.mark.parametrize("seed", range(10))
def test_power_loss_keeps_every_write_without_flush(path, tmp_path, monkeypatch, seed):
    """A driver that cannot flush: each write is stable when it comes back."""
    stable = tmp_path / "stable"
    cache = VolatileCache(path, stable)
    monkeypatch.setattr(os, "fdatasync", cache.fdatasync)
    with ExitStack() as stack:
        load = Load(stack, path, seed, features=0)
        for _ in range(10):
            load.step()
            assert versions(stable) == load.newest


# SIGKILL


def run_until_killed(path, seed, told):
    """In a process of its own: the load, and what each flush covered, as it comes back."""
    with ExitStack() as stack:
        load = Load(stack, path, seed)
        while True:
            if load.step():
                os.write(told, struct.pack(f"<{SECTORS}Q", *load.flushed))


def kill_after(pid, told, seconds):
    """Reads what the process tells until it is time, kills it, and reads the rest."""
    deadline = time.monotonic() + seconds
    received = bytearray()
    killed = False
    while True:
        left = max(0, deadline - time.monotonic())
        if not killed and not select.select([told], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            killed = True
        part = os.read(told, 1 << 16)
        if not part:
            return bytes(received)
        received += part
        if not killed and time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            killed = True


@pytest.mark.parametrize("seed", range(40))
def test_a_killed_vmm_loses_no_flushed_write(path, seed):
    """SIGKILL at a random moment under load: what was told to be flushed is in the file."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            run_until_killed(path, seed, writer)
        finally:
            os._exit(1)
    os.close(writer)
    seconds = 0.02 + random.Random(seed).random() * 0.06  # noqa: S311
    received = kill_after(pid, reader, seconds)
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    size = 8 * SECTORS
    whole = len(received) // size * size
    flushed = struct.unpack(f"<{SECTORS}Q", received[whole - size : whole]) if whole else ()
    for held, covered in zip(versions(path), flushed or [0] * SECTORS, strict=True):
        assert held >= covered
    RawImage(path).close()  # the lock went with the process
