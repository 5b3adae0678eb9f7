"""What a network device needs of the host's side of the wire."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol
else:
    Protocol = object


class NetBackend(Protocol):
    """Where frames come from and go to: a `Tap`, or anything else with descriptors.

    Each read or write of a descriptor moves one frame, with a `virtio_net_hdr` of 12 bytes in
    little-endian order before it. A backend without offloads writes zeros there and ignores what
    it reads.
    """

    @property
    def queue_fds(self) -> Sequence[int]:
        """Non-blocking descriptors, one for each pair of queues; asked for at each activation."""

    @property
    def features(self) -> int:
        """The offloads that it can do: `NetFeature` bits that are about offloads, no others."""

    def set_offloads(self, features: int) -> None:
        """Give the driver such frames from now on, and no others.

        Args:
            features: the `NetFeature` bits of the guest's offloads, a subset of `features`.

        Raises:
            OSError: the host does not do it.
        """

    def set_active_queues(self, count: int) -> None:
        """Spread frames over the first `count` descriptors alone.

        Raises:
            OSError: the host does not do it.
        """
