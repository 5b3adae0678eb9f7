"""What is said of threads: allocators are independent, and any lock of the owner is enough."""

from __future__ import annotations

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vm_allocator import AddressAllocator, BestFit, FirstMatch, IdAllocator, LastMatch

THREADS = 4
ROUNDS = 300


@pytest.fixture(autouse=True)
def _eager_switching():
    """Threads take turns every few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def churn(space, ids, lock, seed):
    """Allocate and free at random; return what is still held."""
    draw = random.Random(seed)  # noqa: S311 - a test's choice
    held, numbers = [], []
    for _ in range(ROUNDS):
        policy = draw.choice([FirstMatch, LastMatch, BestFit])
        with lock:
            held.append(space.allocate(draw.randrange(1, 64), draw.choice([1, 16]), policy))
        with lock:
            numbers.append(ids.allocate())
        if draw.random() < 0.5:
            with lock:
                space.free(held.pop(draw.randrange(len(held))))
                ids.free(numbers.pop(draw.randrange(len(numbers))))
    return held, numbers


def test_threads_that_share_a_lock_share_an_allocator():
    """Nothing is handed out twice and nothing is lost, whichever thread asks."""
    space, ids, lock = AddressAllocator(0, 1 << 20), IdAllocator(0, 1 << 20), threading.Lock()
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda seed: churn(space, ids, lock, seed), range(THREADS)))
    held = sorted((one for ranges, _ in results for one in ranges), key=lambda one: one.start)
    assert [one.range for one in space.used()] == held
    assert space.available == (1 << 20) - sum(one.size for one in held)
    assert ids.used() == tuple(sorted(number for _, numbers in results for number in numbers))


def test_allocators_of_their_own_need_no_lock():
    """Threads that each have an allocator get what each would get alone."""

    def alone(seed):
        space = AddressAllocator(0, 1 << 20)
        churn(space, IdAllocator(0, 1 << 20), threading.Lock(), seed)
        return space

    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(alone, range(THREADS)))
    assert together == [alone(seed) for seed in range(THREADS)]
