"""A driver for a virtio-pci function, as far as tests need one (virtio 1.2 §4.1)."""

from __future__ import annotations

from virtio_devices.errors import DeviceViolation
from virtio_devices.testing import handshake
from virtio_devices.testing.handshake import RegisterBlock
from virtio_devices.transport.status import DRIVER_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from virtio_devices.testing.packed import PackedDriver
    from virtio_devices.testing.split import SplitDriver
else:
    Protocol = object

_VENDOR = 0x1AF4
_FIRST_DEVICE_ID = 0x1040
_CAPABILITY_VENDOR, _CAPABILITY_MSIX = 0x09, 0x11
_COMMON_CFG, _NOTIFY_CFG, _ISR_CFG, _DEVICE_CFG = 1, 2, 3, 4
_NEEDED = {_COMMON_CFG, _NOTIFY_CFG, _ISR_CFG, _DEVICE_CFG}
_NO_VECTOR = 0xFFFF
_MSIX_ENABLE = 1 << 15
_MSIX_FUNCTION_MASK = 1 << 14


class Function(RegisterBlock, Protocol):
    """A function with its BAR 0, as a bus sees it."""

    def read_config(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what a driver reads from the configuration space."""

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take what a driver wrote into the configuration space."""


class PciDriver:
    """Finds a device's structures by its capabilities, negotiates, starts and notifies it.

    Args:
        function: the device as the bus sees it.

    Attributes:
        structures: (offset in BAR 0, length) by the type of each virtio structure.
        msix: offset of the MSI-X capability, 0 if there is none.

    Raises:
        DeviceViolation: this is no modern virtio device, or a structure is missing.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        if self.config(0, 2) != _VENDOR or self.config(2, 2) < _FIRST_DEVICE_ID:
            raise DeviceViolation(f"vendor and device are {self.config(0, 4):#x}", "4.1.2")
        self.structures: dict[int, tuple[int, int]] = {}
        self.msix = 0
        self._multiplier = 0
        for offset in self._capabilities():
            self._take(offset)
        missing = _NEEDED - set(self.structures)
        if missing:
            raise DeviceViolation(f"structures {sorted(missing)} are missing", "4.1.4")

    # Accesses

    def config(self, offset: int, size: int) -> int:
        """Read the configuration space, little-endian."""
        data = bytearray(size)
        self._function.read_config(offset, memoryview(data))
        return int.from_bytes(data, "little")

    def write_config_space(self, offset: int, value: int, size: int) -> None:
        """Write the configuration space, little-endian."""
        self._function.write_config(offset, memoryview(bytearray(value.to_bytes(size, "little"))))

    def read(self, offset: int, size: int = 4) -> int:
        """Read BAR 0, little-endian."""
        data = bytearray(size)
        self._function.read(offset, memoryview(data))
        return int.from_bytes(data, "little")

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """Write BAR 0, little-endian."""
        self._function.write(offset, memoryview(bytearray(value.to_bytes(size, "little"))))

    def common(self, offset: int, size: int) -> int:
        """Read a field of the common configuration."""
        return self.read(self.structures[_COMMON_CFG][0] + offset, size)

    def write_common(self, offset: int, value: int, size: int) -> None:
        """Write a field of the common configuration."""
        self.write(self.structures[_COMMON_CFG][0] + offset, value, size)

    # Status and features

    @property
    def status(self) -> int:
        """The device status field."""
        return self.common(0x14, 1)

    def write_status(self, value: int) -> None:
        """Write the device status field."""
        self.write_common(0x14, value, 1)

    def offered_features(self) -> int:
        """Everything that the device offers."""
        features = 0
        for word in range(2):
            self.write_common(0x00, word, 4)
            features |= self.common(0x04, 4) << 32 * word
        return features

    def accept_features(self, features: int) -> None:
        """Tell the device which features the driver takes."""
        for word in range(2):
            self.write_common(0x08, word, 4)
            self.write_common(0x0C, features >> 32 * word & 0xFFFF_FFFF, 4)

    def read_config(self, offset: int, size: int) -> bytes:
        """Bytes of the device's configuration space, all of the same generation (§2.5.1)."""
        start = self.structures[_DEVICE_CFG][0] + offset
        while True:
            before = self.common(0x15, 1)
            data = bytes(self.read(start + index, 1) for index in range(size))
            if self.common(0x15, 1) == before:
                return data

    def write_config(self, offset: int, data: bytes) -> None:
        """Write a field of the device's configuration space, in one access."""
        start = self.structures[_DEVICE_CFG][0] + offset
        self.write(start, int.from_bytes(data, "little"), len(data))

    # Life

    def negotiate(self, wanted: int = 0) -> int:
        """Reset the device and agree on VERSION_1 and what it offers of `wanted` (§3.1.1).

        Returns:
            The features that both accepted.

        Raises:
            DeviceViolation: the device refuses a subset of what it offers.
        """
        return handshake.negotiate(self, wanted)

    def enable_msix(self) -> None:
        """Use messages instead of the pin.

        Raises:
            DeviceViolation: the function has no MSI-X.
        """
        if not self.msix:
            raise DeviceViolation("the function has no MSI-X", "4.1.5.1.2")
        control = self.config(self.msix + 2, 2)
        self.write_config_space(self.msix + 2, control | _MSIX_ENABLE, 2)

    def mask_function(self, *, masked: bool = True) -> None:
        """Hold all messages back, or no more (PCI Local Bus 3.0 §6.8.2.3)."""
        control = self.config(self.msix + 2, 2) & ~_MSIX_FUNCTION_MASK
        self.write_config_space(self.msix + 2, control | masked * _MSIX_FUNCTION_MASK, 2)

    def mask_vector(self, vector: int, *, masked: bool = True) -> None:
        """Hold one message back, or no more (PCI Local Bus 3.0 §6.8.2.9)."""
        self.write(self._msix_entry(vector) + 12, int(masked))

    def is_pending(self, vector: int) -> bool:
        """Whether a message is held back and waits (PCI Local Bus 3.0 §6.8.2.10)."""
        pending = self.config(self.msix + 8, 4) & ~7
        return bool(self.read(pending + vector // 32 * 4) >> vector % 32 & 1)

    def set_vector(self, vector: int, address: int, data: int, *, masked: bool = False) -> None:
        """Write an entry of the MSI-X table (PCI Local Bus 3.0 §6.8.2)."""
        entry = self._msix_entry(vector)
        self.write(entry + 12, 1)
        self.write(entry, address & 0xFFFF_FFFF)
        self.write(entry + 4, address >> 32)
        self.write(entry + 8, data)
        self.write(entry + 12, int(masked))

    def set_config_vector(self, vector: int) -> None:
        """Map configuration changes to a vector (§4.1.5.1.2).

        Raises:
            DeviceViolation: the device does not take the vector.
        """
        self.write_common(0x10, vector, 2)
        if self.common(0x10, 2) != vector:
            raise DeviceViolation(f"vector {vector} was refused", "4.1.5.1.2")

    def add_queue(
        self, index: int, queue: SplitDriver | PackedDriver, *, vector: int = _NO_VECTOR
    ) -> None:
        """Tell the device where a queue is, and enable it (§4.1.5.1.3).

        Raises:
            DeviceViolation: the device has no such queue or vector, or it does not get ready.
        """
        self.write_common(0x16, index, 2)
        layout = queue.layout
        if self.common(0x1C, 2) or self.common(0x18, 2) < layout.size:
            raise DeviceViolation(f"queue {index} is in use or too small", "4.1.5.1.3")
        self.write_common(0x18, layout.size, 2)
        self.write_common(0x1A, vector, 2)
        if self.common(0x1A, 2) != vector:
            raise DeviceViolation(f"vector {vector} was refused", "4.1.5.1.2")
        for offset, address in zip((0x20, 0x28, 0x30), layout.areas, strict=True):
            self.write_common(offset, address & 0xFFFF_FFFF, 4)
            self.write_common(offset + 4, address >> 32, 4)
        self.write_common(0x1C, 1, 2)
        if self.common(0x1C, 2) != 1:
            raise DeviceViolation(f"queue {index} does not become ready", "4.1.4.3.1")

    def reset_queue(self, index: int) -> None:
        """Reset one queue alone (RING_RESET, §2.6.1); then `add_queue` may set it up again.

        Raises:
            DeviceViolation: the queue does not become free.
        """
        self.write_common(0x16, index, 2)
        self.write_common(0x3A, 1, 2)
        if self.common(0x3A, 2) or self.common(0x1C, 2):
            raise DeviceViolation(f"queue {index} is not reset", "4.1.4.3.1")

    def start(self) -> None:
        """Set DRIVER_OK; the device's status tells how that went."""
        self.write_status(self.status | DRIVER_OK)

    def notify_offset(self, index: int) -> int:
        """Where in BAR 0 a queue is kicked (§4.1.4.4)."""
        self.write_common(0x16, index, 2)
        return self.structures[_NOTIFY_CFG][0] + self.common(0x1E, 2) * self._multiplier

    def notify(self, index: int) -> None:
        """Kick a queue."""
        self.write(self.notify_offset(index), index, 2)

    def acknowledge(self) -> int:
        """Read the reasons of an interrupt, which clears them (1: used buffers, 2: config)."""
        return self.read(self.structures[_ISR_CFG][0], 1)

    # Inside

    def _msix_entry(self, vector: int) -> int:
        return (self.config(self.msix + 4, 4) & ~7) + 16 * vector

    def _capabilities(self) -> list[int]:
        """Offsets of all capabilities.

        Raises:
            DeviceViolation: the list has no end.
        """
        found: list[int] = []
        offset = self.config(0x34, 1) if self.config(0x06, 2) & 1 << 4 else 0
        while offset:
            if offset in found:
                raise DeviceViolation(f"capabilities lead back to {offset:#x}", "4.1.4")
            found.append(offset)
            offset = self.config(offset + 1, 1)
        return found

    def _take(self, offset: int) -> None:
        kind = self.config(offset, 1)
        if kind == _CAPABILITY_MSIX:
            self.msix = offset
        if kind != _CAPABILITY_VENDOR:
            return
        structure, bar = self.config(offset + 3, 1), self.config(offset + 4, 1)
        if structure in _NEEDED and bar == 0:  # the first that can be used (§4.1.4.1)
            place = (self.config(offset + 8, 4), self.config(offset + 12, 4))
            self.structures.setdefault(structure, place)
        if structure == _NOTIFY_CFG:
            self._multiplier = self.config(offset + 16, 4)
