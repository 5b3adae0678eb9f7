"""Memory that belongs to a guest and not to a process.

Source: Documentation/virt/kvm/api.rst, section 4.142, KVM_CREATE_GUEST_MEMFD.
"""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING

from kvm_ioctls._descriptor import Resource

if TYPE_CHECKING:
    from kvm_ioctls._descriptor import Descriptor


class GuestMemfd(Resource):
    """Memory made by `VmFd.create_guest_memfd()`; a context manager.

    A slot that uses it keeps it; this object may be closed first.

    Attributes:
        size: in bytes.
    """

    def __init__(self, fd: Descriptor, size: int) -> None:
        self._fd = fd
        self.size = size

    def map(self) -> mmap:
        """The memory as a buffer; it must have been made with GUEST_MEMFD_FLAG_MMAP."""
        return mmap(self.fileno(), self.size)
