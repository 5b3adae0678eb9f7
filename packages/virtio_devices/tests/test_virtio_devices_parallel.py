"""A driver in C beside the device in Python, on two processors at once: order of accesses."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from virtio_devices import PackedQueue
from virtio_devices.testing import PackedDriver
from vm_memory import GuestMemory

SOURCE = Path(__file__).with_name("parallel_driver.c")
COUNT = 30_000
KICKS = 0x8000


@pytest.fixture(scope="module")
def drivers(tmp_path_factory):
    """The driver of parallel_driver.c for each format of rings."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler})")
    library = tmp_path_factory.mktemp("c") / "parallel_driver.so"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("size", [1, 2, 64])
def test_no_kick_is_lost_in_parallel(drivers, ring, size, event_idx):
    """A device that sleeps after it asked for a kick is kicked, and sees what was made available.

    Without the fence between the wish and the look at the ring, both sides end up waiting.
    """
    with GuestMemory.from_ranges([(0, 0x10000)]) as memory:
        driver, queue = ring.pair(memory, size, event_idx=event_idx)
        for index in range(size):
            if ring.name == "split":
                driver.write_descriptor(index, 0x9000, 1)
            else:
                driver.write_descriptor(index, 0x9000, 1, identifier=index)
        table = memory.table
        host = table.words[6]
        areas = [ctypes.c_void_p(host + address) for address in driver.layout.areas]
        places = areas[1:] if ring.name == "split" else areas[::2]
        drive = drivers.drive_split if ring.name == "split" else drivers.drive_packed
        results = []
        thread = threading.Thread(
            target=lambda: results.append(
                drive(*places, size, COUNT, event_idx, ctypes.c_void_p(host + KICKS))
            )
        )
        thread.start()
        sleeps = serve_until_done(memory, queue, thread)
        thread.join()
        assert results == [0]
        assert sleeps > 0
        del table


def test_a_batch_of_a_packed_ring_comes_back_at_one_moment(drivers):
    """Once its first used descriptor is there, all are.

    Of a received frame the driver takes as many as num_buffers says, without waiting (virtio 1.2
    §5.1.6.4.1).
    """
    size = 64
    with GuestMemory.from_ranges([(0, 0x10000)]) as memory:
        driver = PackedDriver(memory, 0x1000, size)
        queue = PackedQueue(memory, driver.layout)
        for index in range(size):
            driver.write_descriptor(index, 0x9000, 1, identifier=index)
        table = memory.table
        ring = ctypes.c_void_p(table.words[6] + driver.layout.descriptor_ring)
        results = []
        thread = threading.Thread(
            target=lambda: results.append(drivers.watch_packed(ring, size, 1000))
        )
        thread.start()
        while thread.is_alive():
            chains = queue.pop_batch(size)
            assert len(chains) in (0, size)
            queue.add_used_batch([(chain, 0) for chain in chains])
        thread.join()
        assert results == [0]
        del table


def serve_until_done(memory, queue, thread):
    """Handle chains; with none left and notifications enabled, do nothing until a kick comes."""
    sleeps = 0
    while thread.is_alive():
        kicks = memory.load(KICKS, 4)
        queue.disable_notification()
        while (chain := queue.pop()) is not None:
            queue.add_used(chain, 0)
        if queue.enable_notification():
            continue
        sleeps += 1
        while memory.load(KICKS, 4) == kicks and thread.is_alive():
            time.sleep(0)
    return sleeps
