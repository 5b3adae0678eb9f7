"""The map of a machine whose memory changes while it runs (hot-plug)."""

from __future__ import annotations

from threading import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from vm_memory.memory import GuestMemory


class GuestMemoryAtomic:
    """A place that holds the current map: readers take it, a writer replaces it.

    A map never changes, so what `memory` returns stays consistent for as long as the reader
    keeps it, whatever is put in its place meanwhile; readers never wait. Writers take turns:

    >>> from vm_memory import GuestMemory, GuestRegion
    >>> place = GuestMemoryAtomic(GuestMemory.from_ranges([(0, 0x1000)]))
    >>> before = place.memory()
    >>> with place.lock() as guard:
    ...     guard.replace(guard.memory.insert(GuestRegion.anonymous(0x1000, 0x1000)))
    >>> place.memory().check_range(0, 0x2000), before.check_range(0, 0x2000)
    (True, False)

    A region that is no longer in the map may still be in a reader's: let it go instead of
    closing it, and it is unmapped with the last map that has it. Whoever closes it all the same
    makes such a reader's accesses a ValueError, never a crash.

    Args:
        memory: the first map.
    """

    __slots__ = ("_lock", "_memory")

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._lock = Lock()

    def memory(self) -> GuestMemory:
        """The map of this moment; take it once per request, not once per access."""
        return self._memory

    def lock(self) -> ExclusiveGuard:
        """The right to replace the map, for the time of a ``with`` block; others wait."""
        return ExclusiveGuard(self)


class ExclusiveGuard:
    """What `GuestMemoryAtomic.lock` gives: the only one that can replace the map right now."""

    __slots__ = ("_held", "_place")

    def __init__(self, place: GuestMemoryAtomic) -> None:
        self._place = place
        self._held = False

    @property
    def memory(self) -> GuestMemory:
        """The current map, which nobody else can replace before this guard ends."""
        return self._place.memory()

    def replace(self, memory: GuestMemory) -> None:
        """Make `memory` the map that readers get from now on.

        Raises:
            RuntimeError: the ``with`` block of this guard has ended, or not begun.
        """
        if not self._held:
            raise RuntimeError("the map can be replaced inside the guard's with block only")
        self._place._memory = memory  # noqa: SLF001 - the guard is the other half of the place

    def __enter__(self) -> Self:
        self._place._lock.acquire()  # noqa: SLF001 - as above
        self._held = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held = False
        self._place._lock.release()  # noqa: SLF001 - as above
