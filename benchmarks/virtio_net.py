"""Frames per second through the network device on a tap, beside a plain loop on the same tap.

The tap is in a network namespace of its own; a packet socket there is the other end. `receive`: so
many frames wait in the tap, and are given to the driver's buffers, or read into one buffer by the
loop. `transmit`: so many frames wait in the driver's queue, or in as many buffers of the loop, just
written as those of the driver are, and are written to the tap. Only that is timed: not the packet
socket, nor what the driver does before and after.

`process` has the device's whole work, `event_idx` the same with that feature, on a tap of its own.
`frames` is what the frames alone cost in Python, without any queue: a read and a copy into the
guest, a writev out of it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from benchmarks.harness import Candidate, Goal, Results, interleave, report
from virtio_devices import Feature, MmioTransport, Net, Tap
from virtio_devices.testing import InterruptCounter, MmioDriver, NetDriver
from vm_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

CLONE_NEWNET = 0x40000000
FRAMES = 128
SIZES = (60, 1514)
EVERYTHING = (1 << 24) - 1


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench -- virtio_net", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="interleaved rounds (default: 25)")
    rounds = parser.parse_args().rounds
    if os.geteuid() != 0:
        sys.exit("virtio_net: needs root, for a tap in a network namespace")
    enter_namespace()
    results = Results({})
    with (
        Work("bench0", EVERYTHING) as work,
        Work("bench1", EVERYTHING | Feature.EVENT_IDX) as other,
    ):
        for size in SIZES:
            for candidates in (receivers(work, other, size), senders(work, other, size)):
                results = results.with_more(interleave(candidates, rounds=rounds))
    return report("virtio_net", results, goals(results), unit="frames/s")


def goals(results: Results) -> list[Goal]:
    """What the device promises: at least 0.8 of the loop's rate, in each direction."""
    return [
        Goal(f"{measure}, {ours}/loop", results.ratio(measure, ours, "loop"), 0.8, at_least=True)
        for ours in ("process", "event_idx")
        for measure in results.samples["loop"]
    ]


def enter_namespace() -> None:
    """Leave the host's network behind, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")


def receivers(work: Work, other: Work, size: int) -> list[Candidate]:
    """The ways to take frames from a tap."""
    measure = f"receive {size}"
    return [
        Candidate("process", lambda: {measure: work.receive(size, work.device_receives)}),
        Candidate("event_idx", lambda: {measure: other.receive(size, other.device_receives)}),
        Candidate("loop", lambda: {measure: work.receive(size, work.loop_reads)}),
        Candidate("frames", lambda: {measure: work.receive(size, work.frames_are_copied)}),
    ]


def senders(work: Work, other: Work, size: int) -> list[Candidate]:
    """The ways to give frames to it."""
    measure = f"transmit {size}"
    packet = bytes(12) + frame(size)
    work.memory.write(0x1F0000, packet)
    return [
        Candidate("process", lambda: {measure: work.device_sends(size)}),
        Candidate("event_idx", lambda: {measure: other.device_sends(size)}),
        Candidate("loop", lambda: {measure: work.loop_sends(packet)}),
        Candidate("frames", lambda: {measure: rate(lambda: work.spans_are_written(size))}),
    ]


class Work:
    """A tap, the device on it with its driver, and the other end."""

    def __init__(self, name: str, features: int) -> None:
        self.tap = Tap.open(name)
        words = ("link", "set", "dev", self.tap.name, "txqueuelen", "1000", "up")
        subprocess.run(["ip", *words], check=True)
        self.fd = self.tap.queue_fds[0]
        self.memory = GuestMemory.from_ranges([(0, 1 << 21)])
        self.buffer = bytearray(65566)
        self.transport = MmioTransport(
            Net(self.tap), self.memory, InterruptCounter(), kick=lambda _: None
        )
        self.driver = NetDriver(
            MmioDriver(self.transport), self.memory, 0x1000, queue_size=256, span=0x80000
        )
        self.driver.start(features)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind((self.tap.name, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.tap.close()
        self.memory.close()

    # From the tap

    def receive(self, size: int, take: Callable[[], None]) -> float:
        """Frames per second of `take`, with the frames there before."""
        with suppress(BlockingIOError):
            while True:
                os.read(self.fd, 65566)
        queue = self.driver.queues[0]
        self.driver.post(FRAMES - len(queue.in_flight), 1530)
        data = frame(size)
        for _ in range(FRAMES):
            self.socket.send(data)
        result = rate(take)
        self.driver.receive()
        return result

    def device_receives(self) -> None:
        """Until it waits for more."""
        while self.transport.process_queue(0):
            pass

    def loop_reads(self) -> None:
        """What a program without a device does."""
        with suppress(BlockingIOError):
            while True:
                os.readv(self.fd, (self.buffer,))

    def frames_are_copied(self) -> None:
        """What the device does of it without its queue."""
        view = memoryview(self.buffer)
        with suppress(BlockingIOError):
            while True:
                self.memory.write(0x1F0000, view[: os.readv(self.fd, (self.buffer,))])

    # To the tap

    def device_sends(self, size: int) -> float:
        """Frames per second out of the driver's queue."""
        self.driver.send(*[frame(size)] * FRAMES)

        def send() -> None:
            while self.transport.process_queue(1):
                pass

        result = rate(send)
        assert self.driver.sent() == FRAMES
        return result

    def loop_sends(self, packet: bytes) -> float:
        """Frames per second of a program without a device."""
        packets = [bytearray(packet) for _ in range(FRAMES)]

        def send() -> None:
            for each in packets:
                os.write(self.fd, each)

        return rate(send)

    def spans_are_written(self, size: int) -> None:
        """What the device does of it without its queue; a driver's header is a piece of its own."""
        spans = [(0x1F0000, 12), (0x1F000C, size)]
        for _ in range(FRAMES):
            self.memory.writev(self.fd, spans)


def frame(size: int) -> bytes:
    """A frame of a type for experiments, from one local address to another."""
    return (b"\2\0\0\0\0\1\2\0\0\0\0\2\x88\xb5").ljust(size, b"\x5a")


def rate(work: Callable[[], None]) -> float:
    """Frames per second of what handles FRAMES of them."""
    start = time.perf_counter_ns()
    work()
    return FRAMES * 1e9 / (time.perf_counter_ns() - start)


if __name__ == "__main__":
    sys.exit(main())
