"""The BAR through the configuration space (virtio 1.2 §4.1.4.9).

For drivers that cannot map memory yet, as firmware may be.
"""

from __future__ import annotations

from virtio_devices.transport.pci.registers import BAR_INDEX, BAR_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices.transport.pci.configuration import ConfigurationSpace

_BAR, _OFFSET, _LENGTH, _DATA, _END = 4, 8, 12, 16, 20
_WIDTHS = (1, 2, 4)


class ConfigurationWindow:
    """One such capability.

    Args:
        space: the configuration space.
        start: the capability's offset in it.
        read: reads from the BAR.
        write: writes to the BAR.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        start: int,
        read: Callable[[int, memoryview], None],
        write: Callable[[int, memoryview], None],
    ) -> None:
        self._space = space
        self._start = start
        self._read = read
        self._write = write

    def before_read(self, offset: int, size: int) -> None:
        """Software is about to read the configuration space: fetch what it will see."""
        if self._reaches_data(offset, size) and (place := self._place()) is not None:
            data = memoryview(bytearray(place[1]))
            self._read(place[0], data)
            self._space.write(self._start + _DATA, data)

    def after_write(self, offset: int, size: int) -> None:
        """Software has written the configuration space: pass on what it wrote."""
        if self._reaches_data(offset, size) and (place := self._place()) is not None:
            data = memoryview(bytearray(place[1]))
            self._space.read(self._start + _DATA, data)
            self._write(place[0], data)

    def _reaches_data(self, offset: int, size: int) -> bool:
        return offset < self._start + _END and self._start + _DATA < offset + size

    def _place(self) -> tuple[int, int] | None:
        """(offset in the BAR, width) as software set it, if that can be accessed."""
        offset = self._space.load(self._start + _OFFSET, 4)
        width = self._space.load(self._start + _LENGTH, 4)
        right = self._space.load(self._start + _BAR, 1) == BAR_INDEX and width in _WIDTHS
        if not right or offset % width or offset + width > BAR_SIZE:
            return None
        return offset, width
