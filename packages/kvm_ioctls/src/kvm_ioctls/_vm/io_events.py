"""Guest accesses that KVM retires itself: eventfds and coalesced zones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls._ffi import lib
from kvm_ioctls.addresses import place_of

if TYPE_CHECKING:
    from kvm_ioctls.addresses import Mmio, Pio


class IoEvents(Resource):
    """ioeventfds and coalesced zones."""

    def register_ioevent(
        self, fd: int, address: Pio | Mmio, length: int = 0, datamatch: int | None = None
    ) -> None:
        """KVM_IOEVENTFD: a guest's write to `address` signals eventfd `fd` instead of an exit.

        Args:
            fd: the eventfd.
            address: a port or a guest physical address.
            length: only writes of 1, 2, 4 or 8 bytes; 0 for any.
            datamatch: only writes of this value; needs a `length`.
        """
        self._ioeventfd(fd, address, length, datamatch, 0)

    def unregister_ioevent(
        self, fd: int, address: Pio | Mmio, length: int = 0, datamatch: int | None = None
    ) -> None:
        """Undoes `register_ioevent()` with the same arguments."""
        self._ioeventfd(fd, address, length, datamatch, lib.KVM_IOEVENTFD_FLAG_DEASSIGN)

    def _ioeventfd(
        self, fd: int, address: Pio | Mmio, length: int, datamatch: int | None, flags: int
    ) -> None:
        pio, place = place_of(address)
        if pio:
            flags |= lib.KVM_IOEVENTFD_FLAG_PIO
        if datamatch is not None:
            flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        what = {
            "fd": fd,
            "addr": place,
            "len": length,
            "datamatch": 0 if datamatch is None else datamatch,
            "flags": flags,
        }
        self._fd.ioctl_record("KVM_IOEVENTFD", record("struct kvm_ioeventfd", what))

    def register_coalesced_mmio(self, address: Pio | Mmio, size: int) -> None:
        """KVM_REGISTER_COALESCED_MMIO: writes to a zone go to a ring instead of causing exits.

        `VcpuFd.coalesced_ring()` is where they arrive.  When the ring is full, a write is an exit.

        Args:
            address: the zone's first port (KVM_CAP_COALESCED_PIO) or guest physical address.
            size: in bytes.
        """
        self._zone("KVM_REGISTER_COALESCED_MMIO", address, size)

    def unregister_coalesced_mmio(self, address: Pio | Mmio, size: int) -> None:
        """KVM_UNREGISTER_COALESCED_MMIO: ends all zones that lie inside this one."""
        self._zone("KVM_UNREGISTER_COALESCED_MMIO", address, size)

    def _zone(self, request: str, address: Pio | Mmio, size: int) -> None:
        pio, first = place_of(address)
        zone = record("struct kvm_coalesced_mmio_zone", {"addr": first, "size": size, "pio": pio})
        self._fd.ioctl_record(request, zone)
