"""Guest memory as devices write it where a processor is emulated.

A real processor sees every store. `soft_kvm` keeps translations of the guest's code and sees only
the guest's own stores; what a device puts where code was before, say a program's page read from a
disk into recycled memory, it must be told of (`soft_kvm.VmFd.invalidate`), and before the guest
learns that the device is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vm_memory import GuestMemory

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Self

    from _typeshed import FileDescriptorLike
    from typing_extensions import Buffer


class DeviceMemory(GuestMemory):
    """The same regions as another map, with a listener for what is written through this one.

    Integers that are stored (`store`) are fields of rings, never code, and not told. What C code of
    `virtio_devices` writes past these methods arrives by `wrote` (`virtio_devices.device`).
    """

    __slots__ = ("_tell",)

    _tell: Callable[[int, int], object]

    @classmethod
    def over(cls, memory: GuestMemory, tell: Callable[[int, int], object]) -> Self:
        """Make a map of the regions of `memory`.

        Args:
            memory: whose regions they are, and who closes them.
            tell: called with address and bytes of everything that was written, or may have been.
        """
        told = cls(memory.regions)
        told._tell = tell
        return told

    def wrote(self, address: int, size: int) -> None:
        """Hear of bytes that somebody else has written."""
        self._tell(address, size)

    def write(self, address: int, data: Buffer) -> None:
        """As `GuestMemory.write`."""
        super().write(address, data)
        self._tell(address, memoryview(data).nbytes)

    def readv(
        self,
        fd: FileDescriptorLike,
        spans: Iterable[tuple[int, int]],
        offset: int | None = None,
    ) -> int:
        """As `GuestMemory.readv`."""
        spans = list(spans)
        try:
            return super().readv(fd, spans, offset)
        finally:
            self._tell_all(spans)

    def read_from_fd(
        self, address: int, fd: FileDescriptorLike, size: int, offset: int | None = None
    ) -> int:
        """As `GuestMemory.read_from_fd`."""
        try:
            return super().read_from_fd(address, fd, size, offset)
        finally:
            self._tell(address, size)

    def recvmsg(
        self,
        sock: socket.socket,
        spans: Iterable[tuple[int, int]],
        ancbufsize: int = 0,
        flags: int = 0,
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """As `GuestMemory.recvmsg`."""
        spans = list(spans)
        try:
            return super().recvmsg(sock, spans, ancbufsize, flags)
        finally:
            self._tell_all(spans)

    def _tell_all(self, spans: list[tuple[int, int]]) -> None:
        for address, size in spans:
            self._tell(address, size)
