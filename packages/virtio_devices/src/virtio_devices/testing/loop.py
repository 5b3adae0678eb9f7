"""The loop that a VMM has around a device, as far as tests need one."""

from __future__ import annotations

import select

from virtio_devices.errors import VirtioUsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from virtio_devices.device import Device
else:
    Protocol = object

#: How often one queue may have more work in a row; each time is a bounded piece of it.
_MOST = 10_000


class Transport(Protocol):
    """What the loop needs of a transport, such as `MmioTransport`."""

    @property
    def device(self) -> Device:
        """The device behind it."""

    def process_queue(self, index: int) -> bool:
        """Let the device work off one queue; True if more is left."""


class Loop:
    """Follows the kicks of one transport's driver, on the thread of the test.

    Its method `kick` is what the transport takes under that name.

    Attributes:
        kicks: queues that were kicked and not looked at yet, in the order of the kicks.
    """

    def __init__(self) -> None:
        self.kicks: list[int] = []

    def kick(self, index: int) -> None:
        """The driver notified a queue."""
        self.kicks.append(index)

    def run(self, transport: Transport, *, seconds: float = 0) -> None:
        """Let the device work until it has nothing left to do.

        Kicks come first, then one round of the descriptors that the device waits for.

        Args:
            transport: where the device is.
            seconds: how long to wait for one of the descriptors.

        Raises:
            VirtioUsageError: a queue has more work again and again, without an end.
        """
        self._follow_kicks(transport)
        waits = transport.device.readiness
        for descriptor in select.select(list(waits), [], [], seconds if waits else 0)[0]:
            _work_off(transport, waits[descriptor])
        self._follow_kicks(transport)

    def _follow_kicks(self, transport: Transport) -> None:
        while self.kicks:
            _work_off(transport, self.kicks.pop(0))


def _work_off(transport: Transport, index: int) -> None:
    for _ in range(_MOST):
        if not transport.process_queue(index):
            return
    raise VirtioUsageError(f"queue {index} has more work after {_MOST} calls of process_queue")
