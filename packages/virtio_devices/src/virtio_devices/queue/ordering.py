"""A full memory fence for pure Python.

Each side of a queue stores an index and then loads what the other side wants to be told
about. A processor that moves the load before the store loses a notification, and the queue
stands still (virtio 1.2 §2.7.13.4.1). x86-64 does reorder exactly that pair, and nothing
else.

Python has no fence. Taking a free lock is one: CPython does it with an atomic
read-modify-write, ``lock cmpxchg`` on x86-64, which orders all loads and stores around it
(Intel SDM vol. 3 §9.2.2; the lock is a semaphore of the C library up to Python 3.12 and
``PyMutex`` from 3.13 on). On arm64 the same instruction is an acquire only: there, these rings
are for tests until the C ring access arrives.
"""

from __future__ import annotations

from threading import Lock


class Fence:
    """Orders memory accesses of the calling thread; one per queue, so that nobody waits."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = Lock()

    def full(self) -> None:
        """Every access before happens before every access after (x86-64)."""
        with self._lock:
            pass
