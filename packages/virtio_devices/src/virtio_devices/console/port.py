"""The host's side of one port, as whoever makes the device describes it."""

from __future__ import annotations

from virtio_devices.console.output import Output
from virtio_devices.descriptor import OwnDescriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class ConsolePort:
    """Where the bytes of one port go, and where they come from.

    A descriptor stays the caller's to close, at any time: a device duplicates it when it is made,
    and has the same file until it is closed, whatever the number is by then. It may be in
    non-blocking mode; in blocking mode it is asked before it is used, so a pipe, a socket or a file
    does not block whoever runs the device. A terminal is opened once more, in non-blocking mode;
    one of another user's cannot be, nor the master of a pseudo terminal: those have to be in that
    mode, or they block as long as nobody reads what they show.

    Args:
        output: a descriptor, or a function that takes all the bytes that it is given; None throws
            them away.
        source: a descriptor to read from; None for a port without input. To type from a program,
            give it the reading end of a pipe: it holds 64 KiB until the guest takes them.
        name: what the guest shall know the port by, for example ``org.qemu.guest_agent.0``.
        is_console: whether the guest shall use it as a terminal, or as a plain stream.
        on_error: told what the host said when it did not take bytes of the guest, which are lost:
            once, and once more after each time that it took some. Called on the device's thread.
    """

    __slots__ = ("_output", "_own_source", "_users", "is_console", "name", "source")

    def __init__(
        self,
        output: int | Callable[[bytes], object] | None = None,
        source: int | None = None,
        *,
        name: str = "",
        is_console: bool = True,
        on_error: Callable[[OSError], object] = lambda _error: None,
    ) -> None:
        self._output = Output(output, on_error)
        self._own_source: OwnDescriptor | None = None
        self._users = 0
        self.source = source
        self.name = name
        self.is_console = is_console

    @property
    def output(self) -> Output:
        """What takes the guest's bytes."""
        return self._output

    @property
    def own_source(self) -> int | None:
        """The duplicate of `source` while the port is open."""
        return None if self._own_source is None else self._own_source.fileno()

    def open(self) -> None:
        """A device begins to use the descriptors.

        Raises:
            OSError: one of them is not open.
        """
        if not self._users:
            self._own_source = None if self.source is None else OwnDescriptor(self.source)
            self._output.open()
        self._users += 1

    def close(self) -> None:
        """A device uses them no more."""
        self._users -= 1
        if not self._users:
            self._output.close()
            if self._own_source is not None:
                self._own_source.close()
                self._own_source = None

    @property
    def lost(self) -> int:
        """Bytes of the guest that the host did not want: its end was closed, or failed."""
        return self._output.lost
