"""The configuration space of one PCI function (PCI Local Bus 3.0 §6, header type 0).

Bytes, and for each byte the bits that software may change: that is all, and it makes BAR sizing,
reserved bits and odd accesses right by themselves. What a changed bit means is its owner's affair.

Offsets are bytes. The space has 256 bytes; from there to 4096, where PCI Express has extended
capabilities, everything reads zero, which says that there are none.
"""

from __future__ import annotations

from threading import Lock

from virtio_devices.errors import VirtioUsageError
from virtio_devices.transport.state import require

SIZE = 256

COMMAND_MEMORY = 1 << 1
COMMAND_BUS_MASTER = 1 << 2
COMMAND_INTERRUPT_DISABLE = 1 << 10

_COMMAND = 0x04
_STATUS = 0x06
_BAR0 = 0x10
_BARS = 6
_CAPABILITIES_POINTER = 0x34
_INTERRUPT_LINE = 0x3C
_INTERRUPT_PIN = 0x3D
_HEADER_END = 0x40

_STATUS_INTERRUPT = 1 << 3
_STATUS_CAPABILITIES = 1 << 4

_BAR_64_BIT = 0b100  # memory, anywhere in 64 bits, reads have side effects (§6.2.5.1)
_BAR_FLAGS = 0xF
_MIN_BAR = 16


class PciIdentity:
    """What a function says it is (PCI Local Bus 3.0 §6.2.1).

    Attributes:
        vendor, device: ids of 16 bits each.
        class_code: base class, sub-class and programming interface, 24 bits.
        revision: 8 bits.
        subsystem_vendor, subsystem: ids of 16 bits each.
    """

    __slots__ = ("class_code", "device", "revision", "subsystem", "subsystem_vendor", "vendor")

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        *,
        revision: int = 0,
        subsystem_vendor: int = 0,
        subsystem: int = 0,
    ) -> None:
        self.vendor = vendor
        self.device = device
        self.class_code = class_code
        self.revision = revision
        self.subsystem_vendor = subsystem_vendor
        self.subsystem = subsystem


class ConfigurationSpace:
    """A header, BARs for memory, and a list of capabilities.

    Args:
        identity: what the function is.
        interrupt_pin: 1 for INTA# to 4 for INTD#, 0 if the function has none.

    Any thread may read and write.
    """

    def __init__(self, identity: PciIdentity, *, interrupt_pin: int = 0) -> None:
        self._bytes = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self._lock = Lock()
        self._bar_sizes: dict[int, int] = {}
        self._link = _CAPABILITIES_POINTER  # the byte that leads to the next capability
        self._free = _HEADER_END
        self._store(0x00, identity.vendor, 2)
        self._store(0x02, identity.device, 2)
        self._store(0x08, identity.revision, 1)
        self._store(0x09, identity.class_code, 3)
        self._store(0x2C, identity.subsystem_vendor, 2)
        self._store(0x2E, identity.subsystem, 2)
        self._store(_INTERRUPT_PIN, interrupt_pin, 1)
        command = COMMAND_BUS_MASTER | COMMAND_INTERRUPT_DISABLE
        self._permit(_COMMAND, command.to_bytes(2, "little"))
        self._permit(_INTERRUPT_LINE, b"\xff")

    # Making it

    def add_memory_bar(self, index: int, size: int) -> None:
        """Give the function `size` bytes of memory behind the 64-bit BAR `index` and `index` + 1.

        Raises:
            VirtioUsageError: the BAR is in use or none, or the size is no power of 2 from 16 on.
        """
        taken = {used + half for used in self._bar_sizes for half in (0, 1)}
        if not 0 <= index < _BARS - 1 or taken & {index, index + 1}:
            raise VirtioUsageError(f"no free 64-bit BAR begins at BAR {index}")
        if size < _MIN_BAR or size & (size - 1):
            raise VirtioUsageError(f"a BAR cannot have {size:#x} bytes")
        self._bar_sizes[index] = size
        self._store(_BAR0 + 4 * index, _BAR_64_BIT, 4)
        self._permit(_BAR0 + 4 * index, (-size & (1 << 64) - 1).to_bytes(8, "little"))
        self._permit(_COMMAND, bytes([COMMAND_MEMORY | COMMAND_BUS_MASTER]))

    def add_capability(self, capability: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability to the list (§6.7).

        Args:
            capability: its id.
            body: what follows the id and the link to the next.
            writable: the bits of `body` that software may change, from its beginning.

        Returns:
            The offset of the capability.

        Raises:
            VirtioUsageError: the space is full.
        """
        offset = self._free
        end = offset + 2 + len(body)
        if end > SIZE:
            raise VirtioUsageError(f"no room for a capability of {len(body) + 2} bytes")
        self._free = end + -end % 4
        self._store(self._link, offset, 1)
        self._store(offset, capability, 1)
        self._bytes[offset + 2 : end] = body
        self._permit(offset + 2, writable)
        self._link = offset + 1
        self._bytes[_STATUS] |= _STATUS_CAPABILITIES
        return offset

    # For software

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what is at `offset`; zeros beyond 256 bytes."""
        with self._lock:
            data[:] = self._bytes[offset : offset + len(data)].ljust(len(data), b"\0")

    def write(self, offset: int, data: memoryview) -> None:
        """Change what software may change of the bytes from `offset` on."""
        with self._lock:
            for index, value in enumerate(data[: max(SIZE - offset, 0)], offset):
                mask = self._writable[index]
                self._bytes[index] = self._bytes[index] & ~mask | value & mask

    # For the owner

    def load(self, offset: int, size: int) -> int:
        """`size` bytes at `offset`, little-endian."""
        with self._lock:
            return int.from_bytes(self._bytes[offset : offset + size], "little")

    @property
    def command(self) -> int:
        """The command register (§6.2.2)."""
        return self.load(_COMMAND, 2)

    def show_interrupt(self, asserted: bool) -> None:
        """Set or clear Interrupt Status (§6.2.3)."""
        with self._lock:
            status = self._bytes[_STATUS] & ~_STATUS_INTERRUPT
            self._bytes[_STATUS] = status | (_STATUS_INTERRUPT if asserted else 0)

    def save(self) -> bytes:
        """All of it."""
        with self._lock:
            return bytes(self._bytes)

    def restore(self, saved: bytes) -> None:
        """Take what `save` returned. Interrupt Status stays: the owner shows it.

        Raises:
            InvalidState: something differs that software cannot have changed.
        """
        size = len(saved)
        require(size == SIZE, f"has a configuration space of {size} bytes")
        with self._lock:
            for offset, (old, new) in enumerate(zip(self._bytes, saved, strict=True)):
                shown = _STATUS_INTERRUPT if offset == _STATUS else 0
                changed = (old ^ new) & ~self._writable[offset] & ~shown
                require(not changed, f"has {new:#04x} at {offset:#x} of the configuration space")
            status = self._bytes[_STATUS]
            self._bytes[:] = saved
            self._bytes[_STATUS] = status

    def memory_ranges(self) -> dict[int, tuple[int, int]]:
        """(address, size) of the memory that the function answers now, by the BAR's index.

        Empty while Memory Space is disabled in the command register.
        """
        with self._lock:
            if not self._bytes[_COMMAND] & COMMAND_MEMORY:
                return {}
            return {index: (self._address(index), size) for index, size in self._bar_sizes.items()}

    def _address(self, index: int) -> int:
        start = _BAR0 + 4 * index
        return int.from_bytes(self._bytes[start : start + 8], "little") & ~_BAR_FLAGS

    def _store(self, offset: int, value: int, size: int) -> None:
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")

    def _permit(self, offset: int, bits: bytes) -> None:
        for index, mask in enumerate(bits, offset):
            self._writable[index] |= mask
