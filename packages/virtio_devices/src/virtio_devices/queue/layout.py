"""Where the parts of a split virtqueue are, for the device's side and the driver's alike.

Addresses are guest physical, sizes bytes unless they count entries. All fields are
little-endian (virtio 1.2 §2.7, §1.4).
"""

from __future__ import annotations

from virtio_devices.errors import InvalidQueueLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vm_memory import GuestMemory

#: Largest number of entries of a queue (virtio 1.2 §2.7, §2.8).
MAX_QUEUE_SIZE = 32768

DESCRIPTOR_SIZE = 16
USED_ELEMENT_SIZE = 8

# virtio 1.2 §2.7.5, §2.7.6, §2.7.8
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1


def check_part(
    memory: GuestMemory, part: tuple[str, int, int, int], alignment_clause: str, place_clause: str
) -> None:
    """Raise InvalidQueueLayout unless a part (name, address, bytes, alignment) is well placed."""
    name, address, length, alignment = part
    if address % alignment:
        reason = f"is not aligned to {alignment} bytes"
        raise InvalidQueueLayout(name, address, reason, alignment_clause)
    if not memory.check_range(address, length):
        reason = f"({length:#x} bytes) is not wholly in guest memory"
        raise InvalidQueueLayout(name, address, reason, place_clause)
    for region in memory.regions:
        meets = region.start_addr < address + length and region.last_addr >= address
        if meets and region.start_addr % DESCRIPTOR_SIZE:  # a field may lie in two pieces
            reason = "is not aligned within its memory region"
            raise InvalidQueueLayout(name, address, reason, alignment_clause)


class SplitLayout:
    """Size and addresses of one split virtqueue, as a driver chose them.

    Anything can be in it until `check`.

    Attributes:
        size: entries.
        descriptor_table: address of the descriptor area.
        available_ring: address of the driver area.
        used_ring: address of the device area.
        avail_flags, avail_idx, used_event: addresses of the fields around the available ring.
        used_flags, used_idx, avail_event: addresses of the fields around the used ring.
    """

    __slots__ = (
        "avail_event",
        "avail_flags",
        "avail_idx",
        "available_ring",
        "descriptor_table",
        "size",
        "used_event",
        "used_flags",
        "used_idx",
        "used_ring",
    )

    def __init__(
        self, size: int, descriptor_table: int, available_ring: int, used_ring: int
    ) -> None:
        self.size = size
        self.descriptor_table = descriptor_table
        self.available_ring = available_ring
        self.used_ring = used_ring
        self.avail_flags = available_ring
        self.avail_idx = available_ring + 2
        self.used_event = available_ring + 4 + 2 * size
        self.used_flags = used_ring
        self.used_idx = used_ring + 2
        self.avail_event = used_ring + 4 + USED_ELEMENT_SIZE * size

    @classmethod
    def contiguous(cls, base: int, size: int) -> SplitLayout:
        """The three parts one after another from `base` (a multiple of 16)."""
        available_ring = base + DESCRIPTOR_SIZE * size
        used_ring = available_ring + 6 + 2 * size
        return cls(size, base, available_ring, used_ring + -used_ring % 4)

    @property
    def areas(self) -> tuple[int, int, int]:
        """Addresses of the descriptor, driver and device areas, as transports name them."""
        return self.descriptor_table, self.available_ring, self.used_ring

    @property
    def end(self) -> int:
        """The first address after the used ring."""
        return self.avail_event + 2

    def avail_entry(self, index: int) -> int:
        """Address of the entry that a free-running available index means."""
        return self.available_ring + 4 + 2 * (index % self.size)

    def used_entry(self, index: int) -> int:
        """Address of the element that a free-running used index means."""
        return self.used_ring + 4 + USED_ELEMENT_SIZE * (index % self.size)

    def check(self, memory: GuestMemory, max_size: int = MAX_QUEUE_SIZE) -> None:
        """Raise InvalidQueueLayout unless the whole queue can be used in `memory`.

        Afterwards no access to a field of the rings can fail: a map of guest memory never
        changes, a new one is another object.
        """
        if not 0 < self.size <= max_size or self.size & (self.size - 1):
            raise InvalidQueueLayout(
                "queue size", self.size, f"is no power of 2 up to {max_size}", "2.7"
            )
        parts = (
            ("descriptor table", self.descriptor_table, DESCRIPTOR_SIZE * self.size, 16),
            ("available ring", self.available_ring, 6 + 2 * self.size, 2),
            ("used ring", self.used_ring, 6 + USED_ELEMENT_SIZE * self.size, 4),
        )
        for part in parts:
            check_part(memory, part, "2.7.1", "2.7")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SplitLayout):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return (
            f"SplitLayout(size={self.size}, descriptor_table={self.descriptor_table:#x}, "
            f"available_ring={self.available_ring:#x}, used_ring={self.used_ring:#x})"
        )

    def _key(self) -> tuple[int, int, int, int]:
        return self.size, self.descriptor_table, self.available_ring, self.used_ring
