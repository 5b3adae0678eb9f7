"""Which guest memory a virtual machine borrows, and for how long."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from kvm_ioctls._ffi import ffi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm_ioctls._ffi import CData
    from kvm_ioctls.run_page import WritableBuffer


class Slot(NamedTuple):
    """Memory in use.

    `memory` is a memoryview of our own: it keeps the exporter (an mmap cannot be closed under it),
    does not mind what becomes of the view that we were given, and can be collected as garbage.
    `memfd` is a descriptor of our own of the slot's private memory: KVM itself forgets the memory
    with its last descriptor.  `address` is the host's, `start` the guest's.
    """

    memory: memoryview
    address: int
    size: int
    start: int = 0
    memfd: int = -1

    def release(self) -> None:
        """Gives the memory back."""
        self.memory.release()
        if self.memfd >= 0:
            os.close(self.memfd)


def borrow(memory: WritableBuffer, start: int = 0, memfd: int = -1) -> Slot:
    """Holds `memory` in place; BufferError or TypeError unless writable and C-contiguous."""
    held = memoryview(memory)
    view = ffi.from_buffer("char[]", held, require_writable=True)
    address, size = int(ffi.cast("uintptr_t", view)), ffi.sizeof(view)
    ffi.release(view)
    return Slot(held, address, size, start, os.dup(memfd) if memfd >= 0 else -1)


class SlotTable:
    """The slots of one virtual machine.

    The kernel keeps a virtual machine, and so its memory, as long as any file descriptor of it or
    of its vCPUs is open: each of their owners holds the table, and the last to leave empties it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._slots: dict[int, Slot] = {}
        self._holders = 1
        self.blobs: list[CData] = []  # what else the machine reads, as long as it lives

    def hold(self) -> None:
        """One more owner."""
        with self.lock:
            self._holders += 1

    def leave(self) -> None:
        """One owner less."""
        with self.lock:
            self._holders -= 1
            if self._holders == 0:
                for number in list(self._slots):
                    self.replace(number, None)

    def replace(self, number: int, slot: Slot | None) -> None:
        """Enters what the kernel has accepted, and gives the former memory back.

        The caller holds `lock`.
        """
        former = self._slots.pop(number, None)
        if slot is not None:
            self._slots[number] = slot
        if former is not None:
            former.release()

    def size(self, number: int) -> int:
        """The size of a slot in bytes, 0 when there is none."""
        slot = self._slots.get(number)
        return slot.size if slot is not None else 0

    def overlapping(self, start: int, size: int) -> Iterator[tuple[int, Slot]]:
        """The slots that have guest memory in common with `size` bytes at `start`."""
        for number, slot in self._slots.items():
            if slot.start < start + size and start < slot.start + slot.size:
                yield number, slot
