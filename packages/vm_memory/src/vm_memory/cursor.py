"""A position in guest memory that moves over packed records as they are read or written.

For tables that a guest or a VMM lays out byte by byte: ACPI, SMBIOS, boot parameters, notes of
an ELF file. Fields that a running guest polls need `GuestMemory.load` and `store` instead.
"""

from __future__ import annotations

from struct import Struct

from vm_memory.addresses import ADDRESS_LIMIT, check_size
from vm_memory.errors import GuestAccessError, PartialBuffer, UnterminatedString

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from typing_extensions import Buffer

    class _Memory(Protocol):
        """`GuestMemory`, `IommuMemory`, or what reads and writes by the same rules."""

        def read(self, address: int, size: int, /) -> bytes: ...
        def write(self, address: int, data: Buffer, /) -> None: ...


_STRING_CHUNK = 256


class Cursor:
    r"""Reads and writes one record after the other.

    A record's layout is a format of `struct`, or a `struct.Struct`. Say the byte order: without
    ``<`` (little-endian) or ``>`` the struct module takes the host's, and pads fields as its C
    compiler would.

    >>> from vm_memory import GuestMemory
    >>> memory = GuestMemory.from_ranges([(0, 0x10000)])
    >>> cursor = Cursor(memory, 0x7000)
    >>> cursor.write("<QQI", 0x100000, 0x7f00000, 1)   # address, size, type
    >>> cursor.write_bytes(b"console=ttyS0\0")
    >>> cursor.align(16)
    >>> hex(cursor.position)
    '0x7030'
    >>> cursor.position = 0x7000
    >>> address, size, kind = cursor.read("<QQI")
    >>> hex(address), hex(size), kind
    ('0x100000', '0x7f00000', 1)
    >>> cursor.read_c_string(limit=2048)
    b'console=ttyS0'
    >>> memory.close()

    An operation that fails leaves the position where it was. Errors are those of
    `GuestMemory.read` and `GuestMemory.write`; what the window has no room for is a
    `PartialBuffer`, too, and transfers nothing.

    Args:
        memory: what to read and write.
        address: where to start.
        size: bytes of the window that the cursor never reads or writes beyond, as the length
            that a table gives of itself; None for all of the address space.

    Attributes:
        position: address of the next byte; may be set to any address, memory or not.
        end: address behind the window.
    """

    __slots__ = ("_memory", "end", "position")

    def __init__(self, memory: _Memory, address: int, size: int | None = None) -> None:
        if size is not None:
            check_size(size)
        self._memory = memory
        self.position = address
        self.end = ADDRESS_LIMIT if size is None else address + size

    @property
    def remaining(self) -> int:
        """Bytes from the position to the end of the window; 0 behind it."""
        return max(self.end - self.position, 0)

    def read(self, layout: str | Struct) -> tuple[Any, ...]:
        """The fields of the record at the position, which moves behind it.

        Raises:
            struct.error: `layout` is no format.
        """
        record = _compiled(layout)
        return record.unpack(self.read_bytes(record.size))

    def write(self, layout: str | Struct, *fields: object) -> None:
        """Write `fields` as one record at the position, which moves behind it.

        Raises:
            struct.error: `layout` is no format, or `fields` do not fit it; nothing was written.
        """
        self.write_bytes(_compiled(layout).pack(*fields))

    def read_bytes(self, size: int) -> bytes:
        """The next `size` bytes."""
        check_size(size)
        self._check_window(size)
        data = self._memory.read(self.position, size)
        self.position += size
        return data

    def write_bytes(self, data: Buffer) -> None:
        """Write all of `data`."""
        with memoryview(data) as view:
            size = view.nbytes
        self._check_window(size)
        self._memory.write(self.position, data)
        self.position += size

    def read_c_string(self, limit: int) -> bytes:
        """The bytes up to the next NUL, behind which the position moves.

        Args:
            limit: bytes to look at, the NUL included: the guest may have forgotten it.

        Raises:
            UnterminatedString: none of the next `limit` bytes is NUL.
            PartialBuffer: memory or the window ends before there is one.
        """
        check_size(limit)
        text = bytearray()
        while len(text) < limit:
            chunk = self._read_some(len(text), limit)
            length = chunk.find(0)
            if length >= 0:
                self.position += len(text) + length + 1
                return bytes(text + chunk[:length])
            text += chunk
        raise UnterminatedString(self.position, limit)

    def skip(self, size: int) -> None:
        """Move the position forward by `size` bytes, be there memory or not."""
        check_size(size)
        self.position += size

    def align(self, alignment: int) -> None:
        """Move the position forward to the next address that is a multiple of a power of two.

        Raises:
            ValueError: `alignment` is no power of two.
        """
        if alignment <= 0 or alignment & alignment - 1:
            raise ValueError(f"an alignment is a power of two, which {alignment} is not")
        self.position += -self.position % alignment

    def _check_window(self, size: int) -> None:
        if size > self.remaining:
            raise PartialBuffer(self.position, size, self.remaining)

    def _read_some(self, done: int, limit: int) -> bytes:
        """At least one byte of a string of which `done` bytes are read, and at most one chunk."""
        address = self.position + done
        size = min(limit - done, self.remaining - done, _STRING_CHUNK)
        try:
            if size:
                return self._memory.read(address, size)
        except PartialBuffer as error:
            return self._memory.read(address, error.completed)
        except GuestAccessError:
            if not done:
                raise
        raise PartialBuffer(self.position, limit, done)

    def __repr__(self) -> str:
        return f"<Cursor at {self.position:#x}, {self.remaining:#x} bytes to go>"


def _compiled(layout: str | Struct) -> Struct:
    return layout if isinstance(layout, Struct) else Struct(layout)
