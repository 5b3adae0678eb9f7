"""Queues in the format that was negotiated, and a whole device with them."""

from __future__ import annotations

from virtio_devices.features import Feature
from virtio_devices.testing.packed import PackedDriver
from virtio_devices.testing.split import SplitDriver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from vm_memory import GuestMemory
else:
    Protocol = object


class TransportDriver(Protocol):
    """A driver of some transport, such as `MmioDriver` and `PciDriver`."""

    def negotiate(self, wanted: int = 0) -> int:
        """Reset the device and agree on features."""

    def read_config(self, offset: int, size: int) -> bytes:
        """Bytes of the configuration space."""

    def add_queue(self, index: int, queue: SplitDriver | PackedDriver) -> None:
        """Tell the device where a queue is."""

    def start(self) -> None:
        """Set DRIVER_OK."""

    def notify(self, index: int) -> None:
        """Kick a queue."""


def negotiated_queue(
    memory: GuestMemory, base: int, size: int, features: int, *, span: int = 0x10000
) -> SplitDriver | PackedDriver:
    """The driver's side of a queue as `features` want it: RING_PACKED and EVENT_IDX decide.

    Args:
        memory: the guest's memory.
        base: guest physical address of the piece for rings and buffers, a multiple of 16.
        size: entries of the queue.
        features: what driver and device have agreed on.
        span: bytes of the piece.
    """
    make = PackedDriver if features & Feature.RING_PACKED else SplitDriver
    event_idx = bool(features & Feature.EVENT_IDX)
    return make(memory, base, size, span=span, event_idx=event_idx)


def bring_up(
    driver: TransportDriver,
    memory: GuestMemory,
    *,
    wanted: int = 0,
    sizes: Sequence[int] = (16,),
    base: int = 0x1000,
    span: int = 0x10000,
) -> list[SplitDriver | PackedDriver]:
    """Negotiate, set up a device's first queues, and start it (virtio 1.2 §3.1.1).

    The transport's `features` are what was agreed on.

    Args:
        driver: reaches the device's registers.
        memory: the guest's memory.
        wanted: the features to accept if they are offered; VERSION_1 always is.
        sizes: entries of each queue.
        base: guest physical address of the first queue's piece, see `negotiated_queue`.
        span: bytes of each piece; one lies behind the other.

    Raises:
        DeviceViolation: the device refuses what it must take.
    """
    features = driver.negotiate(wanted)
    queues = [
        negotiated_queue(memory, base + span * index, size, features, span=span)
        for index, size in enumerate(sizes)
    ]
    for index, queue in enumerate(queues):
        driver.add_queue(index, queue)
    driver.start()
    return queues
