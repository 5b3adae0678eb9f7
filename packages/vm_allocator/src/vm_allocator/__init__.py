"""Who owns what of a virtual machine's address spaces, identifiers and interrupt lines.

`AddressAllocator` hands out ranges of an address space by policy:

>>> space = AddressAllocator(0xC000_0000, 0x1000_0000)
>>> space.allocate(0x1000, alignment=0x1000, owner="virtio-blk")
Range(0xc0000000, 0xc0000fff)
>>> space.allocate(0x1000, policy=LastMatch)
Range(0xcffff000, 0xcfffffff)
>>> space.allocate(0x10, policy=ExactMatch(0xC000_0800))
Traceback (most recent call last):
    ...
vm_allocator.errors.Overlap: 0xc0000800-0xc000080f overlaps 0xc0000000-0xc0000fff (virtio-blk)

`IdAllocator` does the same for single numbers, `GsiAllocator` for interrupt lines, and
`SystemAllocator` holds one virtual machine's memory map, I/O ports and interrupts together.

This package knows nothing of KVM, buses or devices.

Threads: each allocator stands for itself, and one is to be used by one thread at a time. Nothing
in here locks, because a lock in here would not be enough: whoever takes a range must put a device
there in the same breath. Any lock of the owner will do.
"""

from vm_allocator.address import AddressAllocator
from vm_allocator.errors import (
    AllocatorError,
    AlreadyReleased,
    FreeError,
    IdInUse,
    IdOutOfRange,
    InvalidAlignment,
    InvalidIdRange,
    InvalidRange,
    InvalidSize,
    InvalidState,
    NeverAllocated,
    NoFreeId,
    NoFreeRange,
    NotAllocated,
    NotMmio,
    OutOfRange,
    Overlap,
    PartialFree,
    RequestError,
    ReservedOwner,
    ResourceNotAvailable,
    UnalignedAddress,
)
from vm_allocator.gsis import GsiAllocator
from vm_allocator.ids import IdAllocator
from vm_allocator.policy import BestFit, ExactMatch, FirstMatch, LastMatch, Policy
from vm_allocator.ranges import Allocation, Range
from vm_allocator.states import AddressState, GsiState, IdState, SystemState
from vm_allocator.system import RAM, PlatformMap, SystemAllocator

__all__ = [
    "RAM",
    "AddressAllocator",
    "AddressState",
    "Allocation",
    "AllocatorError",
    "AlreadyReleased",
    "BestFit",
    "ExactMatch",
    "FirstMatch",
    "FreeError",
    "GsiAllocator",
    "GsiState",
    "IdAllocator",
    "IdInUse",
    "IdOutOfRange",
    "IdState",
    "InvalidAlignment",
    "InvalidIdRange",
    "InvalidRange",
    "InvalidSize",
    "InvalidState",
    "LastMatch",
    "NeverAllocated",
    "NoFreeId",
    "NoFreeRange",
    "NotAllocated",
    "NotMmio",
    "OutOfRange",
    "Overlap",
    "PartialFree",
    "PlatformMap",
    "Policy",
    "Range",
    "RequestError",
    "ReservedOwner",
    "ResourceNotAvailable",
    "SystemAllocator",
    "SystemState",
    "UnalignedAddress",
]
