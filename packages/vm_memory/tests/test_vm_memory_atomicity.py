"""The table of guarantees in the documentation's memory model, line by line, from two processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading

import pytest

from vm_memory import GuestMemory, GuestRegion, Ordering, fence

AROUND = [0, 0x40 - 8, 0x1000 - 8]  # the ends of a cache line and of a page

# Another process that maps the same file and writes until its standard input ends.
WRITER = """
import sys, threading
from vm_memory import GuestMemory, GuestRegion, Ordering, fence
memory = GuestMemory([GuestRegion.from_fd(0, 0x2000, int(sys.argv[1]))])
running = True
def wait():
    global running
    sys.stdin.read()
    running = False
threading.Thread(target=wait, daemon=True).start()
print("ready", flush=True)
"""


@pytest.fixture
def memory():
    """Two pages in a file that another process can map."""
    with GuestMemory([GuestRegion.memfd(0, 0x2000)]) as memory:
        yield memory


@pytest.fixture
def other_process(memory):
    """Start another process that runs the given lines, with `memory`, until the test ends."""
    started = []

    def start(body):
        fd = memory.regions[0].file_descriptor
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER + body, str(fd)],
            pass_fds=[fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"

    yield start
    for process in started:
        process.communicate()
        assert process.returncode == 0


def observe(read, until, more=50_000):
    """All values that `read` returns, until `until` of them were seen, and `more` after that."""
    seen = set()
    for _ in range(2_000_000):
        seen.add(read())
        if len(seen) >= until:
            break
    for _ in range(more):
        seen.add(read())
    return seen


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_aligned_integers_do_not_tear(memory, other_process, size):
    """`load` sees what some `store` wrote, whole: all zeros or all ones, both of them, no mix."""
    ones = (1 << 8 * size) - 1
    other_process(
        f"while running:\n for a in {AROUND}:\n"
        f"  memory.store(a, 0, {size}); memory.store(a, {ones}, {size})\n"
    )
    for address in AROUND:
        assert observe(lambda a=address: memory.load(a, size), 2) == {0, ones}


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_aligned_short_copies_do_not_tear(memory, other_process, size):
    """`read`, `read_into` and `write` of 1, 2, 4 or 8 aligned bytes are one access."""
    other_process(
        f"while running:\n for a in {AROUND}:\n"
        f"  memory.write(a, bytes({size})); memory.write(a, b'\\xff' * {size})\n"
    )
    buffer = bytearray(size)

    def read_into(address):
        memory.read_into(address, buffer)
        return bytes(buffer)

    whole = {bytes(size), b"\xff" * size}
    for address in AROUND:
        assert observe(lambda a=address: memory.read(a, size), 2, size * 20_000) == whole
        assert observe(lambda a=address: read_into(a), 2) == whole


def test_unaligned_copies_move_in_aligned_pieces(memory, other_process):
    """Six bytes across the end of a cache line: two, then four, neither of which tears."""
    other_process(
        "while running:\n memory.write(0x3e, bytes(6)); memory.write(0x3e, b'\\xff' * 6)\n"
    )
    seen = observe(lambda: memory.read(0x3E, 6), 4)
    halves = {(data[:2], data[2:]) for data in seen}
    assert {low for low, _ in halves} == {bytes(2), b"\xff" * 2}
    assert {high for _, high in halves} == {bytes(4), b"\xff" * 4}


def test_long_copies_do_tear(memory, other_process):
    """The control: without a promise a mix is seen, so the tests above can see one."""
    size = 0x1000
    other_process(
        f"while running:\n memory.write(0, bytes({size})); memory.write(0, b'\\xff' * {size})\n"
    )
    assert len(observe(lambda: memory.read(0, size), 3)) > 2


def test_release_and_acquire_hand_over(memory, other_process):
    """Who sees the number by `load` sees what was written before it was stored."""
    other_process(
        "number = 0\n"
        "while running:\n"
        " number += 1\n"
        " memory.write(0x1000 + number % 64 * 16, number.to_bytes(8, 'little'))\n"
        " memory.store(0, number, 8)\n"
    )
    seen = set()
    for _ in range(5_000_000):
        number = memory.load(0, 8)
        if number:
            seen.add(number)
            # The writer may be up to 64 numbers ahead before it comes back to this place.
            data = int.from_bytes(memory.read(0x1000 + number % 64 * 16, 8), "little")
            assert data >= number
            assert data % 64 == number % 64
        if len(seen) > 100:
            break
    assert len(seen) > 100


def test_orders_are_checked(memory):
    """Every order that means something is taken; the others, and other numbers, are refused."""
    for order in (Ordering.RELAXED, Ordering.ACQUIRE, Ordering.SEQ_CST):
        assert memory.load(0, 4, order) == memory.load(0, 4, order=order)
    for order in (Ordering.RELAXED, Ordering.RELEASE, Ordering.SEQ_CST):
        memory.store(0, 5, 4, order)
        memory.store(0, 5, size=4, order=order)
        assert memory.load(0, 4) == 5
    for bad in (Ordering.RELEASE, -1, 4, 1 << 70):
        with pytest.raises(ValueError, match="is no order of a load"):
            memory.load(0, 4, bad)
    for bad in (Ordering.ACQUIRE, -1, 4):
        with pytest.raises(ValueError, match="is no order of a store"):
            memory.store(0, 1, 4, bad)
    assert fence() is None


def while_copying(look):
    """What `look` makes of a region right after another thread has begun to copy all of it.

    Nobody takes the interpreter's lock away from that thread: it must give it up by itself. The
    region is large enough for the copy to be looked at.
    """
    begun, buffer = threading.Event(), bytearray(128 << 20)
    with GuestMemory.from_ranges([(0, len(buffer))]) as memory:
        memory.regions[0].prefault()

        def copy():
            begun.set()
            with contextlib.suppress(ValueError):  # `look` has closed the region before
                memory.read_into(0, buffer)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(100)
        try:
            thread = threading.Thread(target=copy)
            thread.start()
            begun.wait()
            result = look(thread, memory.regions[0])
            thread.join()
        finally:
            sys.setswitchinterval(interval)
    return result


def test_large_copies_let_other_threads_run():
    """This thread goes on while the other one copies, though that one waits for nothing."""
    assert any(while_copying(lambda thread, _region: thread.is_alive()) for _ in range(20))


def test_a_region_is_not_closed_under_a_copy():
    """A copy that runs without the interpreter's lock is a borrow."""

    def refused(_thread, region):
        try:
            region.close()
        except BufferError:
            return True
        return False

    assert any(while_copying(refused) for _ in range(20))
