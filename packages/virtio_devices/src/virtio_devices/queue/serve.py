"""The loop that every request queue runs, with the end that is easy to get wrong."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue


#: Chains that are taken and given back together. More would hardly save time, and each chain
#: of a batch waits for the others until the driver sees it.
BATCH = 16

#: After how many descriptors one call lets others have a turn: a guest may offer chains of 32768,
#: with nothing in them, in a queue of as many.
MAX_WALK = 1 << 16


def serve(queue: Queue, handle: Callable[[DescriptorChain], int]) -> bool:
    """Handle available chains, at most as many as the queue has entries.

    The bound, and one of 65536 descriptors behind which no batch is taken, hold against a driver,
    or a device's own writes, that make chains available as fast as they are used up. Interrupting
    the driver is left to the caller, see `Queue.needs_notification`.

    Args:
        queue: where the requests come from.
        handle: does one request and returns the bytes written. If it raises, the chains before
            it are given back, it stays in flight, and those after it are available again.

    Returns:
        False: the queue was empty after notifications were enabled, so a kick follows the next
        chain. True: call again soon; no kick may come.

    Raises:
        QueueError: from the queue, after the chains before the fault were handled.
    """
    queue.disable_notification()
    left, stop_at = queue.size, queue.walked + MAX_WALK
    while left > 0 and queue.walked < stop_at:
        chains = queue.pop_batch(min(left, BATCH))
        if chains:
            _handle_batch(queue, chains, handle)
        elif not queue.enable_notification():
            return False
        left -= max(len(chains), 1)
    return True


def _handle_batch(
    queue: Queue, chains: list[DescriptorChain], handle: Callable[[DescriptorChain], int]
) -> None:
    done: list[tuple[DescriptorChain, int]] = []
    try:
        for chain in chains:
            done.append((chain, handle(chain)))  # noqa: PERF401 - must stay if one raises
    except BaseException:
        for chain in reversed(chains[len(done) + 1 :]):
            queue.put_back(chain)
        raise
    finally:
        queue.add_used_batch(done)
