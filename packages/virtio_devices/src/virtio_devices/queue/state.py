"""What a snapshot needs of a virtqueue: plain numbers, valid for whoever has the same memory."""

from __future__ import annotations

from virtio_devices.errors import VirtioUsageError
from virtio_devices.queue.layout import SplitLayout
from virtio_devices.queue.packed_layout import WRAP_BIT, PackedLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices._core import Ring


class QueueState:
    """A queue between two requests; the rest of it is in guest memory.

    With no chain in flight the device takes chains and gives them back at the same place, so
    one position says all.

    Attributes:
        packed: whether the rings have the packed format.
        size: entries.
        areas: guest physical addresses of the descriptor, driver and device areas.
        event_idx: whether EVENT_IDX was negotiated.
        indirect: whether INDIRECT_DESC was negotiated.
        position: split: the free-running 16-bit index; packed: 15 bits of index, the wrap
            counter above them.
    """

    __slots__ = ("areas", "event_idx", "indirect", "packed", "position", "size")

    def __init__(
        self,
        *,
        packed: bool,
        size: int,
        areas: tuple[int, int, int],
        event_idx: bool,
        indirect: bool,
        position: int,
    ) -> None:
        self.packed = packed
        self.size = size
        self.areas = areas
        self.event_idx = event_idx
        self.indirect = indirect
        self.position = position

    def split_layout(self) -> SplitLayout:
        """Where a split queue's rings are, unchecked.

        Raises:
            VirtioUsageError: the record is of a packed queue, or its position cannot be.
        """
        self._check(packed=False, limit=0xFFFF)
        return SplitLayout(self.size, *self.areas)

    def packed_layout(self) -> PackedLayout:
        """Where a packed queue's ring is, unchecked.

        Raises:
            VirtioUsageError: the record is of a split queue, or its position cannot be.
        """
        self._check(packed=True, limit=WRAP_BIT | self.size - 1)
        if self.position & ~WRAP_BIT >= self.size:
            raise self._impossible()
        return PackedLayout(self.size, *self.areas)

    def _check(self, *, packed: bool, limit: int) -> None:
        if self.packed != packed:
            kinds = ("split", "packed")
            raise VirtioUsageError(
                f"the record is of a {kinds[self.packed]} queue, not of a {kinds[packed]} one"
            )
        if not 0 <= self.position <= limit:
            raise self._impossible()

    def _impossible(self) -> VirtioUsageError:
        return VirtioUsageError(
            f"a queue of {self.size} entries cannot be at position {self.position:#x}"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QueueState):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # a record that may be changed

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"QueueState({fields})"


def state_of(ring: Ring, areas: tuple[int, int, int], *, packed: bool) -> QueueState:
    """The state of a queue without chains in flight.

    Raises:
        VirtioUsageError: there are some.
    """
    if ring.in_flight:
        raise VirtioUsageError(f"{len(ring.in_flight)} chains are in flight")
    return QueueState(
        packed=packed,
        size=ring.size,
        areas=areas,
        event_idx=ring.event_idx,
        indirect=ring.indirect,
        position=ring.next_avail,
    )
