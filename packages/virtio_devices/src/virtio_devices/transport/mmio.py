"""virtio-mmio: a device as a block of memory-mapped registers (virtio 1.2 §4.2, version 2).

Control registers answer aligned 32-bit accesses; any other access of theirs, and any register
that does not exist, reads zeros and ignores writes (§4.2.2.2 forbids them to the driver). The
configuration space takes any width at any offset.
"""

from __future__ import annotations

from threading import Lock

from virtio_devices.records import check_record
from virtio_devices.transport.lifecycle import DeviceLifecycle
from virtio_devices.transport.state import MmioState, check_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices.device import Device
    from virtio_devices.errors import DeviceFailed, DriverViolation, VirtioError
    from virtio_devices.interrupt import Interrupt
    from vm_memory import GuestMemory

#: Bytes of the register block on a bus: control registers and room for any configuration space.
MMIO_SIZE = 0x1000

#: Offset of QueueNotify: a VMM puts an ioeventfd of 4 bytes there for each queue's index.
QUEUE_NOTIFY_OFFSET = 0x050

_MAGIC = 0x74726976  # "virt"
_VERSION = 2
_VENDOR_ID = 0x6D76_7970  # "pyvm", as little-endian text; it has no meaning to drivers
_CONFIG_OFFSET = 0x100
_QUEUE_RULES = "4.2.2.2"
_USED_BUFFER = 1
_CONFIG_CHANGE = 2
_NO_REGION = 0xFFFF_FFFF  # both halves of the length and base of a shared memory region


class _InterruptStatus:
    """The InterruptStatus register and the line that it asserts."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self._lock = Lock()
        self.bits = 0

    def used_buffer(self, _queue: int) -> None:
        self._raise(_USED_BUFFER)

    def config_change(self) -> None:
        self._raise(_CONFIG_CHANGE)

    def show(self, bits: int) -> None:
        """What the line was asserted for before a restore; the machine knows of that already."""
        with self._lock:
            self.bits |= bits

    def acknowledge(self, bits: int) -> None:
        with self._lock:
            self.bits &= ~bits

    def _raise(self, bit: int) -> None:
        with self._lock:
            self.bits |= bit
        self._interrupt.trigger()


class MmioTransport:
    """A virtio device on an MMIO bus.

    Args:
        device: the device behind the registers.
        memory: the guest's memory.
        interrupt: triggered once per event; the guest finds the reasons in InterruptStatus.
        kick: called with a queue's index when the driver notifies it through the register, on
            the thread that made the access. It hands the index to whoever then calls
            `process_queue`, for example by an eventfd that also serves as ioeventfd.
        report: told of every refused write and every reason for DEVICE_NEEDS_RESET. A guest
            decides how often, so a log behind it wants a limit.

    Any thread may call any method.

    Raises:
        VirtioUsageError: the device offers what a device type cannot offer.
    """

    def __init__(
        self,
        device: Device,
        memory: GuestMemory,
        interrupt: Interrupt,
        *,
        kick: Callable[[int], None],
        report: Callable[[VirtioError], None] | None = None,
    ) -> None:
        self._device = device
        self._kick = kick
        self._interrupts = _InterruptStatus(interrupt)
        self._life = DeviceLifecycle(
            device, memory, self._interrupts, queue_rules=_QUEUE_RULES, report=report
        )
        self._lock = Lock()  # guards the selectors with what they select
        self._device_features_sel = 0
        self._driver_features_sel = 0
        self._queue_sel = 0
        self._readers: dict[int, Callable[[], int]] = {
            0x000: lambda: _MAGIC,
            0x004: lambda: _VERSION,
            0x008: lambda: int(device.device_id),
            0x00C: lambda: _VENDOR_ID,
            0x010: lambda: self._life.offered_word(self._device_features_sel),
            0x034: self._queue_num_max,
            0x044: self._queue_ready,
            0x060: lambda: self._interrupts.bits,
            0x070: lambda: self._life.status,
            0x0B0: lambda: _NO_REGION,
            0x0B4: lambda: _NO_REGION,
            0x0B8: lambda: _NO_REGION,
            0x0BC: lambda: _NO_REGION,
            0x0FC: lambda: self._life.config()[1],
        }
        self._writers: dict[int, Callable[[int], None]] = {
            0x014: self._select_device_features,
            0x020: lambda value: self._life.accept_word(self._driver_features_sel, value),
            0x024: self._select_driver_features,
            0x030: self._select_queue,
            0x038: lambda value: self._set_queue("size", value),
            0x044: self._set_queue_ready,
            QUEUE_NOTIFY_OFFSET: self._notify,
            0x064: self._interrupts.acknowledge,
            0x070: self._set_status,
            0x080: lambda value: self._set_queue_half("descriptor_area", 0, value),
            0x084: lambda value: self._set_queue_half("descriptor_area", 32, value),
            0x090: lambda value: self._set_queue_half("driver_area", 0, value),
            0x094: lambda value: self._set_queue_half("driver_area", 32, value),
            0x0A0: lambda value: self._set_queue_half("device_area", 0, value),
            0x0A4: lambda value: self._set_queue_half("device_area", 32, value),
            0x0C0: self._reset_queue,
        }

    # For the bus

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what the driver reads at `offset`; never fails."""
        size = len(data)
        if offset >= _CONFIG_OFFSET:
            self._life.read_config(offset - _CONFIG_OFFSET, data)
        elif size == 4 and offset in self._readers:
            data[:] = self._readers[offset]().to_bytes(4, "little")
        else:
            data[:] = bytes(size)

    def write(self, offset: int, data: memoryview) -> None:
        """Take what the driver wrote at `offset`; never fails."""
        if offset >= _CONFIG_OFFSET:
            self._life.write_config(offset - _CONFIG_OFFSET, bytes(data))
        elif len(data) == 4 and offset in self._writers:
            self._writers[offset](int.from_bytes(data, "little"))

    # For the VMM

    def process_queue(self, index: int) -> bool:
        """Let the device work off one queue, in bounded time.

        Call it after a kick, on any thread; spurious calls are harmless. A driver that breaks
        its queue puts the device into DEVICE_NEEDS_RESET.

        Returns:
            Whether to call again soon, without waiting for a kick.
        """
        return self._life.process_queue(index)

    def reset(self) -> None:
        """Reset the device as the driver would; the VMM does it before it frees guest memory."""
        self._set_status(0)

    def save(self) -> MmioState:
        """What `restore` needs, besides guest memory.

        Raises:
            VirtioUsageError: chains are in flight that the device did not put back. None of
                this package's devices leaves any.
        """
        life = self._life.save()
        with self._lock:
            selectors = (self._device_features_sel, self._driver_features_sel, self._queue_sel)
            return MmioState(life, self._interrupts.bits, selectors)

    def restore(self, state: MmioState) -> None:
        """Go on where another transport was saved, with a device that was made alike.

        Process every queue once afterwards: a kick that was on its way is in no record.

        Raises:
            InvalidState: the record contradicts itself, this device or the guest's memory. The
                transport is as new.
            DeviceFailed: the host cannot give the device what it needs.
        """
        check_record(state, MmioState)
        check_numbers([state.interrupt_status], _USED_BUFFER | _CONFIG_CHANGE, "an InterruptStatus")
        check_numbers(state.selectors, 0xFFFF_FFFF, "a selector")
        self._life.restore(state.life)
        self._interrupts.show(state.interrupt_status)
        with self._lock:
            self._device_features_sel, self._driver_features_sel, self._queue_sel = state.selectors

    @property
    def device(self) -> Device:
        """The device behind the registers."""
        return self._device

    @property
    def status(self) -> int:
        """The device status field; see `DeviceStatus`."""
        return self._life.status

    @property
    def features(self) -> int:
        """The features that the driver accepted so far."""
        return self._life.features

    @property
    def failure(self) -> DriverViolation | DeviceFailed | None:
        """Why DEVICE_NEEDS_RESET is set, if it is."""
        return self._life.failure

    # Registers

    def _set_status(self, value: int) -> None:
        self._life.write_status(value)
        if value == 0:
            self._interrupts.acknowledge(-1)
            with self._lock:
                self._device_features_sel = self._driver_features_sel = self._queue_sel = 0

    def _select_device_features(self, value: int) -> None:
        self._device_features_sel = value

    def _select_driver_features(self, value: int) -> None:
        self._driver_features_sel = value

    def _select_queue(self, value: int) -> None:
        self._queue_sel = value

    def _queue_num_max(self) -> int:
        index = self._queue_sel
        return self._life.queues[index].max_size if index < len(self._life.queues) else 0

    def _queue_ready(self) -> int:
        index = self._queue_sel
        return int(index < len(self._life.queues) and self._life.queues[index].ready)

    def _set_queue_ready(self, value: int) -> None:
        if value == 1:
            self._life.enable_queue(self._queue_sel)
        elif value == 0:
            self._life.disable_queue(self._queue_sel)

    def _reset_queue(self, value: int) -> None:
        """QueueReset reads 0 at any time: the reset is over when the write is (§4.2.2.1)."""
        if value == 1:
            self._life.reset_queue(self._queue_sel)

    def _set_queue(self, name: str, value: int) -> None:
        setup = self._life.configure_queue(self._queue_sel)
        if setup is not None:
            setattr(setup, name, value)

    def _set_queue_half(self, name: str, shift: int, value: int) -> None:
        setup = self._life.configure_queue(self._queue_sel)
        if setup is not None:
            other_half = getattr(setup, name) & 0xFFFF_FFFF << (32 - shift)
            setattr(setup, name, other_half | value << shift)

    def _notify(self, value: int) -> None:
        if self._life.can_notify(value):
            self._kick(value)
