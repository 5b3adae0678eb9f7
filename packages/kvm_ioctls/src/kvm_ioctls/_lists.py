"""The kernel's counted lists: a header that begins with a 32-bit count, then the entries."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

from kvm_ioctls._arguments import elements, of_kind
from kvm_ioctls._ffi import ffi
from kvm_ioctls.errors import KvmError
from kvm_ioctls.structs import CpuidEntry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvm_ioctls._descriptor import Descriptor
    from kvm_ioctls._struct import KvmStruct

Entry = TypeVar("Entry", bound="KvmStruct")


def pack(header: str, kind: type[Entry], entries: Iterable[Entry]) -> bytearray:
    """The list of `entries` of this kind behind the header of C type `header`."""
    listed = elements("entries", entries)
    packed = bytearray(ffi.sizeof(header))
    packed[:4] = len(listed).to_bytes(4, "little")
    for place, entry in enumerate(listed):  # a shorter one would let the kernel read on behind it
        packed += of_kind(f"entries[{place}]", entry, kind).raw
    return packed


def unpack(header: str, kind: type[Entry], packed: bytearray) -> list[Entry]:
    """The entries of a list."""
    start = ffi.sizeof(header)
    places = range(start, start + count(packed) * kind.SIZE, kind.SIZE)
    return [kind.from_bytes(packed[place : place + kind.SIZE]) for place in places]


def count(packed: bytearray) -> int:
    """How many entries a list says it has."""
    return int.from_bytes(packed[:4], "little")


def fetch(descriptor: Descriptor, request: str, header: str, entry_size: int) -> bytearray:
    """The list that the ioctl `request` fills, with room for as many entries as it wants."""
    for room in _rooms():
        packed = bytearray(ffi.sizeof(header) + room * entry_size)
        packed[:4] = room.to_bytes(4, "little")
        try:
            descriptor.ioctl_buffer(request, packed)
        except KvmError as error:
            # E2BIG: more entries than room; ENOMEM from old kernels means the same.
            if error.errno not in (errno.E2BIG, errno.ENOMEM) or room >= 4096:
                raise
        else:
            return packed
    raise AssertionError("the last room raises")  # pragma: no cover


def _rooms() -> Iterable[int]:
    return (1 << power for power in range(7, 13))


def fetch_cpuid(descriptor: Descriptor, request: str) -> list[CpuidEntry]:
    """The CPUID entries that the ioctl `request` gives."""
    packed = fetch(descriptor, request, "struct kvm_cpuid2", CpuidEntry.SIZE)
    return unpack("struct kvm_cpuid2", CpuidEntry, packed)


def fetch_indices(descriptor: Descriptor, request: str) -> list[int]:
    """The MSR indices that the ioctl `request` gives."""
    packed = fetch(descriptor, request, "struct kvm_msr_list", 4)
    return list(memoryview(packed).cast("I")[1 : 1 + count(packed)])
