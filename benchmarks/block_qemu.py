"""The same guest's reads served by our block device and by QEMU's.

The guest is a driver in C (`block_load.c`) that kicks by an eventfd and sleeps on another one. Ours
serves it in a thread that sleeps on the kick; QEMU's is `qemu-storage-daemon` with a vhost-user-blk
export, without AIO options of its own and with `aio=io_uring`. Reads of a file in the page cache:
random ones of 4 KiB, one or 32 in flight, and sequential ones of 64 KiB, four in flight.
Nanoseconds per request.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from typing import Any

from benchmarks._floor import compile_floor
from benchmarks._vhost_user import FrontEnd
from benchmarks.harness import Candidate, Goal, Results, interleave, report
from virtio_devices import Block, MmioTransport, RawImage
from virtio_devices.testing import MmioDriver, SplitDriver
from vm_memory import GuestMemory, GuestRegion

DECLARATIONS = """
double run_load(const uint64_t *table, const uint64_t *areas, int kick, int call, int depth,
                uint64_t requests, uint64_t bytes, uint64_t disk, int random);
"""
DISK = 256 << 20
MEMORY = 8 << 20
QUEUE = 128
LOADS = {  # name: in flight, requests, bytes, whether random
    "random 4k": (1, 4000, 4096, 1),
    "random 4k x32": (32, 40000, 4096, 1),
    "sequential 64k x4": (4, 8000, 65536, 0),
}


class Guest:
    """Memory with a queue in it, and the eventfds of that queue."""

    def __init__(self, stack: ExitStack, module: Any) -> None:
        region = GuestRegion.memfd(0, MEMORY)
        self.memory = stack.enter_context(GuestMemory([region]))
        self.fd = region.file_descriptor
        self.queue = SplitDriver(self.memory, 0x1000, QUEUE, span=0x10000)
        self.kick, self.call = os.eventfd(0), os.eventfd(0)
        stack.callback(os.close, self.kick)
        stack.callback(os.close, self.call)
        self._ffi, self._lib = module.ffi, module.lib
        self._table = self.memory.table
        stack.callback(delattr, self, "_table")

    def load(self) -> dict[str, float]:
        """Nanoseconds per request of every load."""
        return {name: self._run(*parameters) for name, parameters in LOADS.items()}

    def _run(self, depth: int, requests: int, size: int, random: int) -> float:
        table = self._ffi.from_buffer("uint64_t *", self._table)
        areas = self._ffi.new("uint64_t[]", self.queue.layout.areas)
        arguments = (self.kick, self.call, depth, requests, size, DISK, random)
        return float(self._lib.run_load(table, areas, *arguments)) / requests


class Ours:
    """Our device in a thread; also its interrupt."""

    def __init__(self, stack: ExitStack, guest: Guest, path: str) -> None:
        self._guest = guest
        image = stack.enter_context(RawImage(path, read_only=True))
        self._transport = MmioTransport(Block(image), guest.memory, self, kick=self._ignore)
        driver = MmioDriver(self._transport)
        driver.negotiate(0)
        driver.add_queue(0, guest.queue)
        driver.start()
        self._runs = True
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        stack.callback(self._stop)

    def trigger(self) -> None:
        """Wake the guest."""
        os.eventfd_write(self._guest.call, 1)

    def _serve(self) -> None:
        while self._runs:
            os.eventfd_read(self._guest.kick)
            while self._transport.process_queue(0):
                pass

    def _stop(self) -> None:
        self._runs = False
        os.eventfd_write(self._guest.kick, 1)
        self._thread.join()

    def _ignore(self, _queue: int) -> None:
        """The guest kicks by itself."""


def serve_by_qemu(stack: ExitStack, guest: Guest, path: str, name: str, *options: str) -> None:
    """Let a storage daemon of QEMU's serve the queue."""
    listen = f"{os.path.dirname(path)}/{name}.sock"  # noqa: PTH120
    node = ",".join(["driver=file", "node-name=disk", f"filename={path}", "read-only=on", *options])
    export = f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={listen}"
    daemon = subprocess.Popen(["qemu-storage-daemon", "--blockdev", node, "--export", export])
    stack.callback(daemon.wait)
    stack.callback(daemon.terminate)
    front_end = FrontEnd(listen)
    stack.callback(front_end.close)
    front_end.start((guest.fd, MEMORY), QUEUE, guest.queue.layout.areas, guest.kick, guest.call)


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- block_qemu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default: 7)")
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        path = os.path.join(folder, "disk")  # noqa: PTH118
        with open(path, "wb") as file:  # noqa: PTH123
            file.writelines(os.urandom(1 << 20) for _ in range(DISK >> 20))
        module = compile_floor("block_load", DECLARATIONS, folder)
        ours, threads, uring = (Guest(stack, module) for _ in range(3))
        Ours(stack, ours, path)
        serve_by_qemu(stack, threads, path, "threads")
        serve_by_qemu(stack, uring, path, "uring", "aio=io_uring")
        results = interleave(
            [
                Candidate("ours", ours.load),
                Candidate("QEMU", threads.load),
                Candidate("QEMU io_uring", uring.load),
            ],
            rounds=rounds,
        )
    return report("block_qemu", results, goals(results), unit="ns")


def goals(results: Results) -> list[Goal]:
    """No slower than the faster of QEMU's two ways."""

    def ratio(measure: str) -> float:
        ways = ("QEMU", "QEMU io_uring")
        return results.median("ours", measure) / min(results.median(way, measure) for way in ways)

    return [Goal(f"{measure}, time over QEMU's", ratio(measure), 1.0) for measure in LOADS]


if __name__ == "__main__":
    sys.exit(main())
