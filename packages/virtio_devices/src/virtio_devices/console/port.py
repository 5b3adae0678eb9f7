"""The host's side of one port, as whoever makes the device describes it."""

from __future__ import annotations

from virtio_devices.console.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class ConsolePort:
    """Where the bytes of one port go, and where they come from.

    A descriptor stays the caller's to close, after the device is done with it. It may be in
    non-blocking mode; in blocking mode it is asked before it is used, so a pipe, a socket or a file
    does not block whoever runs the device. (A terminal may, for as long as it shows one piece.)

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

    __slots__ = ("_output", "is_console", "name", "source")

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
        self.source = source
        self.name = name
        self.is_console = is_console

    @property
    def output(self) -> Output:
        """What takes the guest's bytes."""
        return self._output

    @property
    def lost(self) -> int:
        """Bytes of the guest that the host did not want: its end was closed, or failed."""
        return self._output.lost
