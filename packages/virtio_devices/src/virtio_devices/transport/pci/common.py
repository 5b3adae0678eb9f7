"""The common configuration structure (virtio 1.2 §4.1.4.3).

Each field answers accesses of its own width; those of 64 bits are two of 32, and may be accessed as
one. Any other access reads zeros and ignores writes (§4.1.3.1 forbids them to the driver).
"""

from __future__ import annotations

from threading import Lock

from virtio_devices.transport.state import check_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices.transport.lifecycle import DeviceLifecycle
    from virtio_devices.transport.pci.interrupts import PciInterrupts

#: The section that says how a driver may write the fields of a queue.
QUEUE_RULES = "4.1.4.3.2"

_LONG_FIELDS = (0x20, 0x28, 0x30)


class CommonConfiguration:
    """The registers that are the same for every device.

    Args:
        life: the device as its driver sees it.
        interrupts: how the device reaches its driver.
    """

    def __init__(self, life: DeviceLifecycle, interrupts: PciInterrupts) -> None:
        self._life = life
        self._interrupts = interrupts
        self._lock = Lock()  # guards the selectors with what a reset does to them
        self._device_feature_select = 0
        self._driver_feature_select = 0
        self._queue_select = 0
        self._readers: dict[tuple[int, int], Callable[[], int]] = {
            (0x00, 4): lambda: self._device_feature_select,
            (0x04, 4): lambda: life.offered_word(self._device_feature_select),
            (0x08, 4): lambda: self._driver_feature_select,
            (0x0C, 4): self._driver_feature,
            (0x10, 2): lambda: interrupts.config_vector,
            (0x12, 2): lambda: len(life.queues),
            (0x14, 1): lambda: life.status,
            (0x15, 1): lambda: life.config()[1] & 0xFF,
            (0x16, 2): lambda: self._queue_select,
            (0x18, 2): self._queue_size,
            (0x1A, 2): lambda: interrupts.queue_vector(self._queue_select),
            (0x1C, 2): lambda: int(self._exists() and life.queues[self._queue_select].ready),
            (0x1E, 2): lambda: self._queue_select if self._exists() else 0,
        }
        self._writers: dict[tuple[int, int], Callable[[int], None]] = {
            (0x00, 4): self._select_device_feature,
            (0x08, 4): self._select_driver_feature,
            (0x0C, 4): lambda value: life.accept_word(self._driver_feature_select, value),
            (0x10, 2): self._set_config_vector,
            (0x14, 1): self.set_status,
            (0x16, 2): self._select_queue,
            (0x18, 2): self._set_queue_size,
            (0x1A, 2): lambda value: interrupts.set_queue_vector(self._queue_select, value),
            (0x1C, 2): self._enable_queue,
            (0x3A, 2): self._reset_queue,
        }
        areas = ("descriptor_area", "driver_area", "device_area")
        for offset, name in zip(_LONG_FIELDS, areas, strict=True):
            self._add_half(offset, name, 0)
            self._add_half(offset + 4, name, 32)

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what the driver reads at `offset`; never fails."""
        size = len(data)
        if size == 8 and offset in _LONG_FIELDS:
            self.read(offset, data[:4])
            self.read(offset + 4, data[4:])
            return
        reader = self._readers.get((offset, size))
        data[:] = bytes(size) if reader is None else reader().to_bytes(size, "little")

    def write(self, offset: int, data: memoryview) -> None:
        """Take what the driver wrote at `offset`; never fails."""
        size = len(data)
        if size == 8 and offset in _LONG_FIELDS:
            self.write(offset, data[:4])
            self.write(offset + 4, data[4:])
            return
        writer = self._writers.get((offset, size))
        if writer is not None:
            writer(int.from_bytes(data, "little"))

    def set_status(self, value: int) -> None:
        """The driver wrote the device status; 0 is a reset."""
        self._life.write_status(value)
        if value == 0:
            self._interrupts.reset()
            with self._lock:
                self._device_feature_select = self._driver_feature_select = 0
                self._queue_select = 0

    @property
    def selectors(self) -> tuple[int, int, int]:
        """device_feature_select, driver_feature_select and queue_select."""
        with self._lock:
            return self._device_feature_select, self._driver_feature_select, self._queue_select

    def restore(self, selectors: tuple[int, int, int]) -> None:
        """Take what `selectors` were.

        Raises:
            InvalidState: one is too large for its field.
        """
        check_numbers(selectors[:2], 0xFFFF_FFFF, "a selector")
        check_numbers(selectors[2:], 0xFFFF, "a selector")
        with self._lock:
            self._device_feature_select, self._driver_feature_select = selectors[:2]
            self._queue_select = selectors[2]

    def _exists(self) -> bool:
        return self._queue_select < len(self._life.queues)

    def _driver_feature(self) -> int:
        shift = 32 * self._driver_feature_select
        return self._life.features >> shift & 0xFFFF_FFFF if shift < 64 else 0

    def _select_device_feature(self, value: int) -> None:
        self._device_feature_select = value

    def _select_driver_feature(self, value: int) -> None:
        self._driver_feature_select = value

    def _select_queue(self, value: int) -> None:
        self._queue_select = value

    def _set_config_vector(self, value: int) -> None:
        self._interrupts.config_vector = value

    def _queue_size(self) -> int:
        """0 if there is no such queue; the largest size until the driver chooses another."""
        if not self._exists():
            return 0
        setup = self._life.queues[self._queue_select]
        return setup.size or setup.max_size

    def _set_queue_size(self, value: int) -> None:
        setup = self._life.configure_queue(self._queue_select)
        if setup is not None:
            setup.size = value

    def _enable_queue(self, value: int) -> None:
        """1 enables; nothing else can be written (§4.1.4.3.2)."""
        if value != 1:
            if self._exists():
                reason = f"gets {value:#x} as queue_enable, which takes nothing but 1"
                self._life.refuse_queue(self._queue_select, reason)
            return
        setup = self._life.configure_queue(self._queue_select)
        if setup is not None:
            setup.size = setup.size or setup.max_size
            self._life.enable_queue(self._queue_select)

    def _reset_queue(self, value: int) -> None:
        """queue_reset reads 0 at any time: the reset is over when the write is (§4.1.4.3.1)."""
        if value == 1:
            self._life.reset_queue(self._queue_select)

    def _add_half(self, offset: int, name: str, shift: int) -> None:
        def read() -> int:
            value = getattr(self._life.queues[self._queue_select], name) if self._exists() else 0
            return int(value) >> shift & 0xFFFF_FFFF

        def write(value: int) -> None:
            setup = self._life.configure_queue(self._queue_select)
            if setup is not None:
                other_half = getattr(setup, name) & 0xFFFF_FFFF << (32 - shift)
                setattr(setup, name, other_half | value << shift)

        self._readers[offset, 4] = read
        self._writers[offset, 4] = write
