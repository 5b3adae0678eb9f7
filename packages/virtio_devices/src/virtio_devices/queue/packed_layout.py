"""Where the parts of a packed virtqueue are, and the numbers of its format (virtio 1.2 §2.8).

Addresses are guest physical, sizes bytes unless they count entries. All fields are
little-endian.
"""

from __future__ import annotations

from virtio_devices.errors import InvalidQueueLayout
from virtio_devices.queue.layout import (
    DESCRIPTOR_SIZE,
    MAX_QUEUE_SIZE,
    check_part,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vm_memory import GuestMemory

# virtio 1.2 §2.8.1; NEXT, WRITE and INDIRECT are those of the split format
DESC_F_AVAIL = 1 << 7
DESC_F_USED = 1 << 15

# virtio 1.2 §2.8.10
EVENT_ENABLE = 0
EVENT_DISABLE = 1
EVENT_DESC = 2

#: Bit of a 16-bit position that holds the wrap counter, over 15 bits of index (§2.8.14).
WRAP_BIT = 1 << 15

_EVENT_SIZE = 4


class PackedLayout:
    """Size and addresses of one packed virtqueue, as a driver chose them.

    Anything can be in it until `check`. An event structure is one 32-bit field: position in
    the low half, flags in the high one.

    Attributes:
        size: entries; any number, not only powers of 2 (virtio 1.2 §2.8.10.1).
        descriptor_ring: address of the descriptor area.
        driver_event: address of the driver area, the driver's event suppression structure.
        device_event: address of the device area, the device's event suppression structure.
    """

    __slots__ = ("descriptor_ring", "device_event", "driver_event", "size")

    def __init__(
        self, size: int, descriptor_ring: int, driver_event: int, device_event: int
    ) -> None:
        self.size = size
        self.descriptor_ring = descriptor_ring
        self.driver_event = driver_event
        self.device_event = device_event

    @classmethod
    def contiguous(cls, base: int, size: int) -> PackedLayout:
        """The three parts one after another from `base` (a multiple of 16)."""
        driver_event = base + DESCRIPTOR_SIZE * size
        return cls(size, base, driver_event, driver_event + _EVENT_SIZE)

    @property
    def areas(self) -> tuple[int, int, int]:
        """Addresses of the descriptor, driver and device areas, as transports name them."""
        return self.descriptor_ring, self.driver_event, self.device_event

    @property
    def end(self) -> int:
        """The first address after the device's event suppression structure."""
        return self.device_event + _EVENT_SIZE

    def descriptor(self, index: int) -> int:
        """Address of the descriptor with this index."""
        return self.descriptor_ring + DESCRIPTOR_SIZE * index

    def check(self, memory: GuestMemory, max_size: int = MAX_QUEUE_SIZE) -> None:
        """Raise InvalidQueueLayout unless the whole queue can be used in `memory`.

        Afterwards no access to a field of the rings can fail.
        """
        if not 0 < self.size <= max_size:
            raise InvalidQueueLayout("queue size", self.size, f"is not 1 to {max_size}", "2.8")
        parts = (
            ("descriptor ring", self.descriptor_ring, DESCRIPTOR_SIZE * self.size, 16),
            ("driver event suppression", self.driver_event, _EVENT_SIZE, 4),
            ("device event suppression", self.device_event, _EVENT_SIZE, 4),
        )
        for part in parts:
            check_part(memory, part, "2.8.10.1", "2.8.10.1")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedLayout):
            return NotImplemented
        return (self.size, *self.areas) == (other.size, *other.areas)

    def __hash__(self) -> int:
        return hash((self.size, *self.areas))

    def __repr__(self) -> str:
        return (
            f"PackedLayout(size={self.size}, descriptor_ring={self.descriptor_ring:#x}, "
            f"driver_event={self.driver_event:#x}, device_event={self.device_event:#x})"
        )
