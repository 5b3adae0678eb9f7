"""Guest accesses that are retired without Python, between two entries of the guest.

A zone is cheaper than a handler (no GIL, no object) and dearer than what KVM retires itself:
ioeventfds and coalesced zones come first (`VmFd.register_ioevent()`,
`VmFd.register_coalesced_mmio()`), handlers last.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from kvm_ioctls._arguments import within, wrong_type
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.addresses import place_of

if TYPE_CHECKING:
    from kvm_ioctls.addresses import Mmio, Pio
    from kvm_ioctls.run_page import WritableBuffer


class Zone:
    """Ports or addresses that nobody is at: reads are all ones, writes have no effect.

    Args:
        address: the first port or guest physical address.
        size: how many.

    Raises:
        ValueError: there are no such addresses.
    """

    _KIND = lib.KVM_ZONE_VOID

    def __init__(self, address: Pio | Mmio, size: int) -> None:
        self._pio, self._first = place_of(address)
        end = 2**16 if self._pio else 2**64
        self._size = within("size", size, 1, end)
        if self._first + self._size > end:
            raise ValueError(f"there are no {size} addresses at {self._first:#x}")
        self.address = address
        self._memory: memoryview | None = None
        self._capacity = 0

    @property
    def size(self) -> int:
        """How many ports or addresses."""
        return self._size

    def record(self) -> tuple[int, bool, int, int, int, memoryview | None]:
        """What `VcpuFd.set_zones()` hands on: kind, whether ports, first, last, room, memory."""
        last = self._first + self._size - 1
        return self._KIND, self._pio, self._first, last, self._capacity, self._memory


class RegisterZone(Zone):
    """Ports or addresses with bytes that the guest reads and writes as if they were memory.

    Args:
        address: the first port or guest physical address.
        memory: the bytes, one for each; readable and writable at any time, from any thread.

    Raises:
        TypeError: the memory cannot be written.
    """

    _KIND = lib.KVM_ZONE_MEMORY

    def __init__(self, address: Pio | Mmio, memory: WritableBuffer) -> None:
        view = memoryview(memory).cast("B")
        if view.readonly:
            raise wrong_type("memory", "writable", memory)
        super().__init__(address, len(view))
        self._memory = view


class LogZone(Zone):
    """Ports or addresses whose writes are collected, as a console's; reads are all ones.

    A write that does not fit is an exit like any other: `drain()`, and take its data then.

    Args:
        address: the first port or guest physical address.
        size: how many.
        capacity: bytes of room.
    """

    _KIND = lib.KVM_ZONE_LOG

    def __init__(self, address: Pio | Mmio, size: int, capacity: int = 65536) -> None:
        within("capacity", capacity, 1, 2**32 - 1)
        super().__init__(address, size)
        header = ffi.sizeof("struct kvm_zone_log")
        self._memory = memoryview(bytearray(header + capacity))
        self._capacity = capacity
        self._lock = threading.Lock()

    def drain(self) -> bytes:
        """The bytes written since the last call, oldest first."""
        with self._lock:
            held = ffi.from_buffer("char[]", self._memory, require_writable=True)
            try:
                count = lib.kvm_zone_log_length(held, self._capacity)
                out = ffi.new("char[]", count)
                lib.kvm_zone_log_drain(held, self._capacity, out, count)
            finally:
                ffi.release(held)
            return bytes(ffi.buffer(out, count))
