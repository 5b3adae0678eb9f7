"""What a device needs of a virtqueue, whichever format the rings have."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.state import QueueState
else:
    Protocol = object


class Queue(Protocol):
    """One virtqueue, from activation to reset; used by one thread at a time."""

    @property
    def size(self) -> int:
        """Entries, the most chains that can be in flight."""

    @property
    def walked(self) -> int:
        """Descriptors of all the chains that were taken so far: what they cost to look at."""

    def pop(self) -> DescriptorChain | None:
        """Take the next available chain, or None if there is none or the queue was stopped.

        Raises:
            QueueError: the driver's rings or descriptors break a rule. Nothing was taken; the
                next call meets the same fault.
        """

    def pop_batch(self, limit: int, /) -> list[DescriptorChain]:
        """Take up to `limit` available chains, in their order; empty as `pop` gives None.

        Raises:
            QueueError: the next chain breaks a rule, and there was none before it. A fault
                after other chains waits for the next call.
        """

    def put_back(self, chain: DescriptorChain, /) -> None:
        """Make the chain that was taken last the next one again, as if it had not been taken.

        Raises:
            VirtioUsageError: the chain is not in flight, or not the last one that was taken.
        """

    def add_used(self, chain: DescriptorChain, written: int, /) -> None:
        """Give a chain back to the driver, in any order; nothing happens in a stopped queue.

        Args:
            chain: one that `pop` returned and that was not given back yet.
            written: bytes from the beginning of the writable buffers that are filled.

        Raises:
            VirtioUsageError: the chain is not in flight, or `written` exceeds its buffers.
        """

    def add_used_batch(self, chains: Iterable[tuple[DescriptorChain, int]], /) -> None:
        """Give chains back, each with the bytes written, in this order; see `add_used`.

        Raises:
            VirtioUsageError: as `add_used`; no chain was given back.
        """

    def discard(self, limit: int, /) -> int:
        """Give up to `limit` available chains back unread and unwritten; how many there were.

        Raises:
            QueueError: as `pop_batch`.
        """

    def needs_notification(self) -> bool:
        """Whether the driver must be told of what was added since the last call."""

    def enable_notification(self) -> bool:
        """Ask the driver for a notification of its next chain; True if one is there already.

        On True the notification may never come: take the chain first.
        """

    def disable_notification(self) -> None:
        """Advise the driver to send no notifications for now; it may send some nevertheless."""

    def stop(self) -> None:
        """Touch guest memory no more (reset, or the driver stopped the queue); from any thread."""

    def state(self) -> QueueState:
        """What a snapshot needs to make the queue again, besides guest memory.

        Raises:
            VirtioUsageError: chains are in flight.
        """
