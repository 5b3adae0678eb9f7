"""Guest memory as a device behind an IOMMU sees it: addressed by I/O virtual address (IOVA).

Modelled on ``IommuMemory`` of rust-vmm's vm-memory 0.18, with these departures:

* dirty bitmaps are by guest physical address always, because the memory behind marks them; there
  they are by IOVA while translation is on, which a migration cannot use;
* the pieces of an access are checked before the first is touched, so that what transfers nothing
  on failure does so across pieces, too;
* an IOMMU whose answer does not cover the range asked for is an error instead of a short access.
"""

from __future__ import annotations

from operator import index

from vm_memory.addresses import check_size
from vm_memory.errors import (
    GuestAccessError,
    HostAddressNotAvailable,
    InvalidGuestAddress,
    PartialBuffer,
)
from vm_memory.iotlb import Permissions
from vm_memory.ordering import Ordering
from vm_memory.translation_errors import CannotResolve, Fragmented, IommuMisconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Protocol, Self, TypeAlias, TypeVar

    from _typeshed import FileDescriptorLike
    from typing_extensions import Buffer

    from vm_memory.memory import GuestMemory

    Result = TypeVar("Result")
    Span: TypeAlias = tuple[int, int]  # (address, bytes)
else:
    Protocol = object  # `typing` would cost half of this package's import budget


class Iommu(Protocol):
    """Who translates; `Iotlb` does, if it holds all there is to know."""

    def translate(self, iova: int, size: int, access: Permissions, /) -> Sequence[Span]:
        """The (guest physical address, size) pieces that a range consists of, in order.

        Together they have exactly `size` bytes, and each has at least one. Called by every
        thread that accesses the memory.

        Raises:
            CannotResolve: a part of the range is not mapped, or does not permit `access`.
            IommuMisconfigured: the implementation is not ready to translate.
        """


class IommuMemory:
    """The access methods of `GuestMemory`, with every address translated and permitted first.

    >>> from vm_memory import GuestMemory
    >>> from vm_memory.iotlb import Iotlb, Permissions
    >>> iotlb = Iotlb()
    >>> iotlb.set_mapping(0xf000, 0x3000, 0x1000, Permissions.READ)
    >>> with GuestMemory.from_ranges([(0, 0x10000)]) as physical:
    ...     memory = IommuMemory(physical, iotlb)
    ...     physical.write(0x3010, b"request")
    ...     print(memory.read(0xf010, 7))
    ...     print(memory.check_range(0xf010, 7, Permissions.WRITE))
    b'request'
    False

    Rules of every access of `size` bytes at `address`:

    * `size` 0 touches and translates nothing and succeeds at any address;
    * first byte not translated: `CannotResolve`; translated to where no memory is:
      `InvalidGuestAddress` with the guest physical address; nothing transferred;
    * either for a later byte: `PartialBuffer`, whose cause says which; `write` and `read_into`
      have transferred the bytes before it, everything else nothing;
    * what must be one piece and is not, `view`, `load` and `store`: `Fragmented`;
    * `MisalignedAccess` is about the guest physical address, which is what the host accesses.

    While `iommu_enabled` is false, addresses are guest physical ones and nothing is refused that
    the memory itself would not refuse.

    Who takes a mapping away waits for the accesses that are under way, and for views, before the
    range is used for anything else; a view outlives its mapping.

    Args:
        backend: guest memory by guest physical address.
        iommu: translates.
        enabled: whether to start with translation on.

    Attributes:
        iommu: what translates.
        iommu_enabled: whether translation is on; may be set at any time.
    """

    __slots__ = ("_backend", "iommu", "iommu_enabled")

    def __init__(self, backend: GuestMemory, iommu: Iommu, *, enabled: bool = True) -> None:
        self._backend = backend
        self.iommu = iommu
        self.iommu_enabled = enabled

    @property
    def physical_memory(self) -> GuestMemory:
        """The memory behind, by guest physical address."""
        return self._backend

    def with_replaced_backend(self, backend: GuestMemory) -> Self:
        """The same IOMMU in the same state, in front of other memory; this one stays as it is."""
        return type(self)(backend, self.iommu, enabled=self.iommu_enabled)

    def check_range(
        self, address: int, size: int, access: Permissions = Permissions.READ_WRITE
    ) -> bool:
        """Whether all of [address, address + size) is memory that permits `access`."""
        return self.reachable(address, size, access) == size

    def reachable(
        self, address: int, size: int, access: Permissions = Permissions.READ_WRITE
    ) -> int:
        """How many bytes from `address` on are memory that permits `access`, at most `size`."""
        try:
            pieces, _stopped = self._reachable(address, size, access)
        except GuestAccessError:
            return 0
        return sum([length for _gpa, length in pieces])

    # Bytes

    def read(self, address: int, size: int) -> bytes:
        """Copy `size` bytes out of the guest."""
        pieces = self._all(address, size, Permissions.READ)
        return b"".join([self._backend.read(gpa, length) for gpa, length in pieces])

    def read_into(self, address: int, buffer: Buffer) -> None:
        """Copy guest bytes into `buffer`, filling it."""
        with memoryview(buffer) as raw, raw.cast("B") as target:
            self._copy(address, target, Permissions.READ, self._backend.read_into)

    def write(self, address: int, data: Buffer) -> None:
        """Copy all bytes of `data` (C-contiguous, any item format) into the guest."""
        with memoryview(data) as raw, raw.cast("B") as source:
            self._copy(address, source, Permissions.WRITE, self._backend.write)

    def view(self, address: int, size: int, writable: bool = True) -> memoryview:
        """The bytes themselves; they must lie in one piece and one region.

        A writable view needs permission to write, a read-only one permission to read.
        """
        if not size:
            return self._backend.view(0, 0, writable)
        access = Permissions.WRITE if writable else Permissions.READ
        return self._in_one_piece(
            address, size, access, lambda gpa: self._backend.view(gpa, size, writable)
        )

    def iovec(self, address: int, size: int, writable: bool = True) -> list[memoryview]:
        """Views of the range, one per piece and region that it touches; permissions as `view`."""
        access = Permissions.WRITE if writable else Permissions.READ
        pieces = self._all(address, size, access)
        return [view for piece in pieces for view in self._backend.iovec(*piece, writable)]

    # Integers

    def load(self, address: int, size: int, order: int = Ordering.ACQUIRE) -> int:
        """The unsigned little-endian integer of `size` bytes (1, 2, 4 or 8) at `address`."""
        _check_integer(size)
        return self._in_one_piece(
            address, size, Permissions.READ, lambda gpa: self._backend.load(gpa, size, order)
        )

    def store(self, address: int, value: int, size: int, order: int = Ordering.RELEASE) -> None:
        """Write `value` as an unsigned little-endian integer of `size` bytes; see `load`."""
        _check_integer(size)
        self._in_one_piece(
            address,
            size,
            Permissions.WRITE,
            lambda gpa: self._backend.store(gpa, value, size, order),
        )

    def mark_dirty(self, address: int, size: int) -> None:
        """Say that the range, all of which may be written, has been."""
        for piece in self._all(address, size, Permissions.WRITE):
            self._backend.mark_dirty(*piece)

    # Files and messages

    def read_from_fd(
        self, address: int, fd: FileDescriptorLike, size: int, offset: int | None = None
    ) -> int:
        """Read up to `size` bytes from `fd` straight into the guest; as `GuestMemory` does."""
        pieces = self._all(address, size, Permissions.WRITE)
        return _transfer(pieces, self._backend.read_from_fd, fd, offset)

    def write_to_fd(
        self, address: int, fd: FileDescriptorLike, size: int, offset: int | None = None
    ) -> int:
        """Write `size` bytes of the guest straight to `fd`; as `GuestMemory` does."""
        pieces = self._all(address, size, Permissions.READ)
        return _transfer(pieces, self._backend.write_to_fd, fd, offset)

    def readv(
        self, fd: FileDescriptorLike, spans: Iterable[Span], offset: int | None = None
    ) -> int:
        """One system call that reads into several pieces; as `GuestMemory` does."""
        return self._backend.readv(fd, self._pieces(spans, Permissions.WRITE), offset)

    def writev(
        self, fd: FileDescriptorLike, spans: Iterable[Span], offset: int | None = None
    ) -> int:
        """One system call that writes several pieces; as `GuestMemory` does."""
        return self._backend.writev(fd, self._pieces(spans, Permissions.READ), offset)

    def recvmsg(
        self, sock: socket.socket, spans: Iterable[Span], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """Receive one message into several pieces; as `GuestMemory` does."""
        pieces = self._pieces(spans, Permissions.WRITE)
        return self._backend.recvmsg(sock, pieces, ancbufsize, flags)

    def sendmsg(
        self,
        sock: socket.socket,
        spans: Iterable[Span],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: Any = None,
    ) -> int:
        """Send several pieces as one message; as `GuestMemory` does."""
        pieces = self._pieces(spans, Permissions.READ)
        return self._backend.sendmsg(sock, pieces, ancdata, flags, address)

    def _pieces(self, spans: Iterable[Span], access: Permissions) -> list[Span]:
        """What all spans consist of, in order."""
        return [piece for span in spans for piece in self._all(*span, access)]

    def __repr__(self) -> str:
        state = "on" if self.iommu_enabled else "off"
        return f"<IommuMemory, translation {state}, of {self._backend!r}>"

    # How far an access gets

    def _translate(
        self, address: int, size: int, access: Permissions
    ) -> tuple[list[Span], CannotResolve | None]:
        """Pieces up to the first byte that is not translated, and why that is not.

        Raises:
            CannotResolve: it is the first byte of all.
        """
        if not self.iommu_enabled:
            return [(address, size)], None
        try:
            return self._ask(address, size, access), None
        except CannotResolve as error:
            if not 0 < error.resolved < size:
                raise
            return self._ask(address, error.resolved, access), error

    def _ask(self, address: int, size: int, access: Permissions) -> list[Span]:
        pieces = list(self.iommu.translate(address, size, access))
        lengths = [length for _gpa, length in pieces]
        if sum(lengths) != size or min(lengths) <= 0:
            raise IommuMisconfigured(address, size, f"its answer has pieces of {lengths} bytes")
        return pieces

    def _missing(self, gpa: int, size: int) -> GuestAccessError:
        """Why the byte at a guest physical address cannot be reached."""
        if self._backend.find_region(gpa) is None:
            return InvalidGuestAddress(gpa, size)
        return HostAddressNotAvailable(gpa, size)

    def _reachable(
        self, address: int, size: int, access: Permissions
    ) -> tuple[list[Span], GuestAccessError | None]:
        """Pieces of memory up to the first byte that is none, and why that is not.

        Raises:
            CannotResolve, InvalidGuestAddress, HostAddressNotAvailable: it is the first byte.
        """
        address, size = index(address), index(size)
        check_size(size)
        if not size:
            return [], None
        pieces, stopped = self._translate(address, size, access)
        for number, (gpa, length) in enumerate(pieces):
            present = self._backend.reachable(gpa, length)
            if not present and not number:
                raise self._missing(gpa, size)
            if present < length:
                missing = self._missing(gpa + present, length - present)
                return [*pieces[:number], (gpa, present)], missing
        return pieces, stopped

    def _all(self, address: int, size: int, access: Permissions) -> list[Span]:
        """The pieces of the whole range, all of which is memory."""
        pieces, stopped = self._reachable(address, size, access)
        if stopped:
            completed = sum([length for _gpa, length in pieces])
            raise PartialBuffer(address, size, completed) from stopped
        return pieces

    def _copy(
        self,
        address: int,
        buffer: memoryview,
        access: Permissions,
        copy: Callable[[int, memoryview], None],
    ) -> None:
        """Copy between the range and `buffer`, of the same length, as far as the range goes."""
        size, done = len(buffer), 0
        pieces, stopped = self._reachable(address, size, access)
        for gpa, length in pieces:
            copy(gpa, buffer[done : done + length])
            done += length
        if stopped:
            raise PartialBuffer(address, size, done) from stopped

    def _in_one_piece(
        self, address: int, size: int, access: Permissions, operation: Callable[[int], Result]
    ) -> Result:
        """Call `operation` with the guest physical address of a range of at least one byte."""
        address, size = index(address), index(size)
        check_size(size)
        pieces, stopped = self._translate(address, size, access)
        gpa, length = pieces[0]
        if length == size:
            try:
                return operation(gpa)
            except PartialBuffer as error:
                raise PartialBuffer(address, size, error.completed) from error
        present = self._backend.reachable(gpa, length)
        if not present:
            raise self._missing(gpa, size)
        if len(pieces) > 1:
            raise Fragmented(address, size, length)
        raise PartialBuffer(address, size, present) from stopped


def _transfer(
    pieces: list[Span],
    operation: Callable[[int, FileDescriptorLike, int, int | None], int],
    fd: FileDescriptorLike,
    offset: int | None,
) -> int:
    """Move piece after piece between guest and file; stop at the first that comes up short."""
    done = 0
    for gpa, length in pieces:
        try:
            moved = operation(gpa, fd, length, None if offset is None else offset + done)
        except BlockingIOError:
            if not done:
                raise
            break
        done += moved
        if moved < length:
            break
    return done


def _check_integer(size: int) -> None:
    if size not in (1, 2, 4, 8):
        raise ValueError(f"an integer has 1, 2, 4 or 8 bytes, not {size}")
