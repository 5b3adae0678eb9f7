"""Which guest memory a virtual machine borrows, and for how long."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from kvm_ioctls._arguments import wrong_type
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
    memfd: Copy | None = None

    def release(self) -> None:
        """Gives the memory back."""
        self.memory.release()
        if self.memfd is not None:
            self.memfd.close()


class Copy:
    """A descriptor of our own, which is closed with its last reference at the latest."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = os.dup(number)

    def close(self) -> None:
        """Closes it; again is harmless."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    __del__ = close


def borrow(
    memory: WritableBuffer, start: int = 0, memfd: int | None = None, *, writable: bool = True
) -> Slot:
    """Holds `memory` in place.

    Raises:
        TypeError: it is no C-contiguous buffer, or not writable and has to be.
        ValueError: it is empty.
    """
    try:
        held = memoryview(memory)
    except TypeError:
        raise wrong_type("memory", "a buffer", memory) from None
    if not held.c_contiguous or (writable and held.readonly):
        raise wrong_type("memory", "writable and C-contiguous", memory)
    if not held.nbytes:
        raise ValueError("memory is not empty: None deletes a slot")
    view = ffi.from_buffer("char[]", held)
    address, size = int(ffi.cast("uintptr_t", view)), ffi.sizeof(view)
    ffi.release(view)
    return Slot(held, address, size, start, Copy(memfd) if memfd is not None else None)


class SlotTable:
    """The slots of one virtual machine.

    The kernel keeps a virtual machine, and so its memory, as long as any file descriptor of it or
    of its vCPUs is open: each of their owners holds the table, and the last to leave empties it.
    """

    def __init__(self) -> None:
        # Reentrant: garbage may be collected, and leave, while it is held; a signal's handler may
        # close what its thread is changing.
        self.lock = threading.RLock()
        self._process = os.getpid()
        self._slots: dict[int, Slot] = {}
        self._holders = 0
        self.blobs: list[CData] = []  # what else the machine reads, as long as it lives

    def hold(self) -> Hold:
        """One more owner."""
        with self.lock:
            self._holders += 1
        return Hold(self)

    def leave(self) -> None:
        """One owner less; it is the owner's `Hold` that calls this, once."""
        if self._process != os.getpid():  # a child: a thread that held the lock is not here
            self.lock, self._process = threading.RLock(), os.getpid()
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
        if slot is not None and self._holders == 0:
            slot.release()  # a signal's handler closed the machine meanwhile
        elif slot is not None:
            self._slots[number] = slot
        if former is not None:
            former.release()

    def entry(self, number: int, slot: Slot | None) -> tuple[dict[int, Slot], int, Slot | None]:
        """What `Descriptor.ioctl_entry()` enters; the former memory goes back with its `Slot`."""
        return self._slots, number, slot

    def size(self, number: int) -> int:
        """The size of a slot in bytes, 0 when there is none."""
        slot = self._slots.get(number)
        return slot.size if slot is not None else 0

    def overlapping(self, start: int, size: int) -> Iterator[tuple[int, Slot]]:
        """The slots that have guest memory in common with `size` bytes at `start`."""
        for number, slot in self._slots.items():
            if slot.start < start + size and start < slot.start + slot.size:
                yield number, slot


class Hold:
    """That an owner of a machine, or of one of its vCPUs, is there: until `leave()` or its end."""

    __slots__ = ("_table",)

    def __init__(self, table: SlotTable) -> None:
        self._table: SlotTable | None = table

    def leave(self) -> None:
        """One owner less; again is harmless."""
        table, self._table = self._table, None
        if table is not None:
            table.leave()

    __del__ = leave
