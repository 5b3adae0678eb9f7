"""Guest physical memory for virtual machine monitors.

`GuestMemory` is an ordered set of `GuestRegion` objects. Everything addresses it by plain
integers, guest physical addresses:

>>> memory = GuestMemory.from_ranges([(0, 0xA0000), (0x100000, 16 << 20)])
>>> memory.write(0x7000, b"zero page")
>>> memory.read(0x7000, 4)
b'zero'
>>> memory.store(0x9000, 0xA003, 8)
>>> hex(memory.load(0x9000, 8))
'0xa003'
>>> memory.check_range(0x9fff0, 0x20)
False
>>> memory.close()

Host memory is owned by ``mmap`` objects and only borrowed by views, memory slots and C code:
closing it under a borrow raises ``BufferError``. C code of other packages reads the same map
from `GuestMemory.table`, whose layout `vm_memory.table` documents.

This package knows nothing of KVM, devices or boot protocols.
"""

from vm_memory._core import DirtyBitmap, fence
from vm_memory.atomic import ExclusiveGuard, GuestMemoryAtomic
from vm_memory.cursor import Cursor
from vm_memory.errors import (
    GuestAccessError,
    HostAddressNotAvailable,
    HostMemoryError,
    HostMemoryFault,
    InvalidGuestAddress,
    InvalidRegion,
    MapError,
    MappingFailed,
    MemoryRegionOverlap,
    MisalignedAccess,
    NoSuchRegion,
    PartialBuffer,
    PolicyRefused,
    UnterminatedString,
    VmMemoryError,
)
from vm_memory.inspection import hexdump, search
from vm_memory.iommu import Iommu, IommuMemory
from vm_memory.iotlb import Iotlb, Permissions
from vm_memory.memory import GuestMemory
from vm_memory.ordering import Ordering
from vm_memory.page_tables import PageTableEntry, PageTables, PageTranslation
from vm_memory.region import DIRTY_PAGE_SIZE, GuestRegion
from vm_memory.table import (
    TABLE_HEADER_WORDS,
    TABLE_ROW_WORDS,
    TABLE_VERSION,
    RegionTable,
)
from vm_memory.translation_errors import (
    BadPageTableEntry,
    CannotResolve,
    Fragmented,
    InvalidMapping,
    IommuMisconfigured,
    NonCanonicalAddress,
    PageNotPresent,
    PageTableOutsideMemory,
    PageWalkError,
    ReservedBitsSet,
)

__all__ = [
    "DIRTY_PAGE_SIZE",
    "TABLE_HEADER_WORDS",
    "TABLE_ROW_WORDS",
    "TABLE_VERSION",
    "BadPageTableEntry",
    "CannotResolve",
    "Cursor",
    "DirtyBitmap",
    "ExclusiveGuard",
    "Fragmented",
    "GuestAccessError",
    "GuestMemory",
    "GuestMemoryAtomic",
    "GuestRegion",
    "HostAddressNotAvailable",
    "HostMemoryError",
    "HostMemoryFault",
    "InvalidGuestAddress",
    "InvalidMapping",
    "InvalidRegion",
    "Iommu",
    "IommuMemory",
    "IommuMisconfigured",
    "Iotlb",
    "MapError",
    "MappingFailed",
    "MemoryRegionOverlap",
    "MisalignedAccess",
    "NoSuchRegion",
    "NonCanonicalAddress",
    "Ordering",
    "PageNotPresent",
    "PageTableEntry",
    "PageTableOutsideMemory",
    "PageTables",
    "PageTranslation",
    "PageWalkError",
    "PartialBuffer",
    "Permissions",
    "PolicyRefused",
    "RegionTable",
    "ReservedBitsSet",
    "UnterminatedString",
    "VmMemoryError",
    "fence",
    "hexdump",
    "search",
]
