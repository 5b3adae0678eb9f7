"""The memory of a descriptor that somebody else owns."""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.errors import KvmError


def mapped(number: int, size: int, offset: int = 0) -> mmap:
    """`size` bytes of the descriptor `number`, from `offset` on; no copy of the descriptor is kept.

    Raises:
        KvmError: it has no such memory.
    """
    made = mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    place = ffi.from_buffer("char[]", made)
    result = lib.kvm_map(place, size, number, offset)
    ffi.release(place)
    if result < 0:
        made.close()
        raise KvmError(-result, "mmap")
    return made
