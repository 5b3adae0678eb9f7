"""A driver for a virtio-mmio register block, as far as tests need one (virtio 1.2 §4.2.3)."""

from __future__ import annotations

from virtio_devices.errors import DeviceViolation
from virtio_devices.testing import handshake
from virtio_devices.transport.status import DRIVER_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.testing.handshake import RegisterBlock
    from virtio_devices.testing.packed import PackedDriver
    from virtio_devices.testing.split import SplitDriver


class MmioDriver:
    """Finds, negotiates, starts and notifies a device by its registers.

    Args:
        registers: the device as the bus sees it.
    """

    def __init__(self, registers: RegisterBlock) -> None:
        self._registers = registers

    # Registers

    def read(self, offset: int, size: int = 4) -> int:
        """An access of `size` bytes, little-endian."""
        data = bytearray(size)
        self._registers.read(offset, memoryview(data))
        return int.from_bytes(data, "little")

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """An access of `size` bytes, little-endian."""
        self._registers.write(offset, memoryview(bytearray(value.to_bytes(size, "little"))))

    @property
    def status(self) -> int:
        """The device status field."""
        return self.read(0x070)

    def write_status(self, value: int) -> None:
        """Write the device status field."""
        self.write(0x070, value)

    def offered_features(self) -> int:
        """Everything that the device offers."""
        features = 0
        for word in range(2):
            self.write(0x014, word)
            features |= self.read(0x010) << 32 * word
        return features

    def accept_features(self, features: int) -> None:
        """Tell the device which features the driver takes."""
        for word in range(2):
            self.write(0x024, word)
            self.write(0x020, features >> 32 * word & 0xFFFF_FFFF)

    def read_config(self, offset: int, size: int) -> bytes:
        """Bytes of the configuration space, all of the same generation (§2.5.1)."""
        while True:
            before = self.read(0x0FC)
            data = bytes(self.read(0x100 + offset + index, 1) for index in range(size))
            if self.read(0x0FC) == before:
                return data

    def write_config(self, offset: int, data: bytes) -> None:
        """Write a field of the configuration space, in one access."""
        self.write(0x100 + offset, int.from_bytes(data, "little"), len(data))

    # Life

    def negotiate(self, wanted: int = 0) -> int:
        """Reset the device and agree on VERSION_1 and what it offers of `wanted` (§3.1.1).

        Returns:
            The features that both accepted.

        Raises:
            DeviceViolation: there is no virtio device of version 2, or it refuses a subset of
                what it offers.
        """
        found = (self.read(0x000), self.read(0x004))
        if found != (0x74726976, 2):
            raise DeviceViolation(f"magic and version are {found}", "4.2.2.1")
        return handshake.negotiate(self, wanted)

    def add_queue(self, index: int, queue: SplitDriver | PackedDriver) -> None:
        """Tell the device where a queue is, and enable it (§4.2.3.2).

        Raises:
            DeviceViolation: the device has no such queue, or it does not become ready.
        """
        self.write(0x030, index)
        layout = queue.layout
        if self.read(0x044) or self.read(0x034) < layout.size:
            raise DeviceViolation(f"queue {index} is in use or too small", "4.2.3.2")
        self.write(0x038, layout.size)
        for offset, address in zip((0x080, 0x090, 0x0A0), layout.areas, strict=True):
            self.write(offset, address & 0xFFFF_FFFF)
            self.write(offset + 4, address >> 32)
        self.write(0x044, 1)
        if self.read(0x044) != 1:
            raise DeviceViolation(f"queue {index} does not become ready", "4.2.2")

    def reset_queue(self, index: int) -> None:
        """Reset one queue alone (RING_RESET, §2.6.1); then `add_queue` may set it up again.

        Raises:
            DeviceViolation: the queue does not become free.
        """
        self.write(0x030, index)
        self.write(0x0C0, 1)
        if self.read(0x0C0) or self.read(0x044):
            raise DeviceViolation(f"queue {index} is not reset", "4.2.2.1")

    def start(self) -> None:
        """Set DRIVER_OK; the device's status tells how that went."""
        self.write_status(self.status | DRIVER_OK)

    def notify(self, index: int) -> None:
        """Kick a queue."""
        self.write(0x050, index)

    def acknowledge(self) -> int:
        """Read the reasons of an interrupt and acknowledge them (1: used buffers, 2: config)."""
        reasons = self.read(0x060)
        self.write(0x064, reasons)
        return reasons
