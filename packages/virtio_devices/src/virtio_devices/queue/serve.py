"""The loop that every request queue runs, with the end that is easy to get wrong."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue


def serve(queue: Queue, handle: Callable[[DescriptorChain], int]) -> bool:
    """Handle available chains, at most as many as the queue has entries.

    The bound holds against a driver, or a device's own writes, that make chains available as
    fast as they are used up. Interrupting the driver is left to the caller, see
    `Queue.needs_notification`.

    Args:
        queue: where the requests come from.
        handle: does one request and returns the bytes written.

    Returns:
        False: the queue was empty after notifications were enabled, so a kick follows the next
        chain. True: call again soon; no kick may come.

    Raises:
        QueueError: from the queue, after the chains before the fault were handled.
    """
    queue.disable_notification()
    for _ in range(queue.size):
        chain = queue.pop()
        if chain is not None:
            queue.add_used(chain, handle(chain))
        elif not queue.enable_notification():
            return False
    return True
