"""A virtio device as a PCI function: configuration space, and one BAR of registers."""

from __future__ import annotations

from bisect import bisect_right
from threading import Lock

from virtio_devices.errors import VirtioUsageError
from virtio_devices.records import check_record
from virtio_devices.transport.lifecycle import DeviceLifecycle
from virtio_devices.transport.pci import registers
from virtio_devices.transport.pci.common import QUEUE_RULES, CommonConfiguration
from virtio_devices.transport.pci.configuration import ConfigurationSpace
from virtio_devices.transport.pci.interrupts import PciInterrupts
from virtio_devices.transport.pci.msix import MsixTable
from virtio_devices.transport.pci.window import ConfigurationWindow
from virtio_devices.transport.state import PciState, require

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtio_devices.device import Device
    from virtio_devices.errors import DeviceFailed, DriverViolation, VirtioError
    from virtio_devices.transport.pci.interrupts import InterruptLine
    from virtio_devices.transport.pci.msix import MsiVector
    from vm_memory import GuestMemory

    _Access = Callable[[int, memoryview], None]

_INTA = 1
_MESSAGE_CONTROL = 2  # offset in the MSI-X capability


class PciTransport:
    """A virtio device on a PCI bus.

    `read_config` and `write_config` are its configuration space, `read` and `write` its BAR. Where
    the BAR is, the guest decides: ask `memory_ranges` after every `write_config`.

    Args:
        device: the device behind the registers.
        memory: the guest's memory.
        vectors: the machine's interrupt messages, one for each entry of the MSI-X table; one more
            than the device has queues lets the driver tell all events apart. None of them: the
            function has no MSI-X.
        line: the function's pin INTA#, for drivers that leave MSI-X off.
        kick: called with a queue's index when the driver notifies it through the BAR, on the
            thread that made the access. It hands the index to whoever then calls
            `process_queue`, for example by an eventfd that is also the ioeventfd at
            `notify_offset`.
        report: told of every refused write and every reason for DEVICE_NEEDS_RESET. A guest
            decides how often, so a log behind it wants a limit.

    Any thread may call any method. Bus Master is kept and not enforced: a device may use the
    guest's memory whenever its driver has started it.

    Raises:
        VirtioUsageError: the device offers what a device type cannot offer, or there are more
            queues or vectors than the registers have room for.
    """

    def __init__(
        self,
        device: Device,
        memory: GuestMemory,
        *,
        vectors: Sequence[MsiVector],
        line: InterruptLine,
        kick: Callable[[int], None],
        report: Callable[[VirtioError], None] | None = None,
    ) -> None:
        queues = len(device.queue_sizes)
        if queues > registers.MAX_QUEUES or len(vectors) > registers.MAX_VECTORS:
            raise VirtioUsageError(
                f"{queues} queues and {len(vectors)} vectors, but there is room for "
                f"{registers.MAX_QUEUES} and {registers.MAX_VECTORS}"
            )
        self._device = device
        self._kick = kick
        self._config_lock = Lock()
        self._space = ConfigurationSpace(registers.identity(device.device_id), interrupt_pin=_INTA)
        self._msix = MsixTable(vectors)
        self._interrupts = PciInterrupts(self._space, self._msix, line, queues)
        self._life = DeviceLifecycle(
            device, memory, self._interrupts, queue_rules=QUEUE_RULES, report=report
        )
        self._common = CommonConfiguration(self._life, self._interrupts)
        self._msix_capability = self._describe()
        self._places: tuple[tuple[int, int, _Access, _Access], ...] = (
            (registers.COMMON, registers.COMMON_SIZE, self._common.read, self._common.write),
            (registers.ISR, registers.ISR_SIZE, self._read_isr, _drop),
            (registers.DEVICE, registers.DEVICE_SIZE, self._life.read_config, self._write_device),
            (
                registers.MSIX_TABLE,
                registers.MSIX_TABLE_SIZE,
                self._msix.read_table,
                self._msix.write_table,
            ),
            (
                registers.MSIX_PENDING,
                registers.MSIX_PENDING_SIZE,
                self._msix.read_pending,
                _drop,
            ),
            (registers.NOTIFY, registers.NOTIFY_SIZE, _zeros, self._notify),
        )
        self._starts = tuple(place[0] for place in self._places)

    # For the bus

    def read_config(self, offset: int, data: memoryview) -> None:
        """Fill `data` from the configuration space at `offset`; never fails."""
        with self._config_lock:
            self._window.before_read(offset, len(data))
            self._space.read(offset, data)

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take what software wrote into the configuration space at `offset`; never fails."""
        with self._config_lock:
            self._space.write(offset, data)
            self._msix.control(self._message_control())
            self._interrupts.reconsider()
            self._window.after_write(offset, len(data))

    def memory_ranges(self) -> dict[int, tuple[int, int]]:
        """(address, size) of the memory that the function answers now, by the BAR's index."""
        return self._space.memory_ranges()

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what the driver reads at `offset` of the BAR; never fails."""
        start, size, read, _write = self._places[bisect_right(self._starts, offset) - 1]
        if offset - start + len(data) <= size:
            read(offset - start, data)
        else:
            data[:] = bytes(len(data))

    def write(self, offset: int, data: memoryview) -> None:
        """Take what the driver wrote at `offset` of the BAR; never fails."""
        start, size, _read, write = self._places[bisect_right(self._starts, offset) - 1]
        if offset - start + len(data) <= size:
            write(offset - start, data)

    # For the VMM

    @staticmethod
    def notify_offset(queue: int) -> int:
        """Where in BAR 0 a driver notifies a queue: the place of an ioeventfd of any length."""
        return registers.NOTIFY + registers.NOTIFY_MULTIPLIER * queue

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
        self._common.set_status(0)

    def save(self) -> PciState:
        """What `restore` needs, besides guest memory.

        Raises:
            VirtioUsageError: chains are in flight that the device did not put back. None of
                this package's devices leaves any.
        """
        life = self._life.save()
        with self._config_lock:
            table, pending = self._msix.save()
            isr, config_vector, queue_vectors = self._interrupts.save()
            return PciState(
                life=life,
                space=self._space.save(),
                table=table,
                pending=pending,
                isr=isr,
                config_vector=config_vector,
                queue_vectors=queue_vectors,
                selectors=self._common.selectors,
            )

    def restore(self, state: PciState) -> None:
        """Go on where another function was saved, with a device that was made alike.

        Messages are told to the vectors and the pin is set. Ask `memory_ranges` and process every
        queue once afterwards: a kick that was on its way is in no record.

        Raises:
            InvalidState: the record contradicts itself, this function or the guest's memory. The
                transport is of no use any more.
            DeviceFailed: the host cannot give the device what it needs.
        """
        check_record(state, PciState)
        with self._config_lock:
            self._space.restore(state.space)
            self._msix.restore(state.table, state.pending, self._message_control())
            self._common.restore(state.selectors)
            self._interrupts.restore(state.isr, state.config_vector, state.queue_vectors)
            require(self._space.save() == state.space, "shows an interrupt that its ISR does not")
        self._life.restore(state.life)

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

    # Inside

    def _describe(self) -> int | None:
        """Fill the configuration space; where in it MSI-X is, if it is there."""
        space = self._space
        space.add_memory_bar(registers.BAR_INDEX, registers.BAR_SIZE)
        msix = registers.add_msix(space, len(self._msix)) if len(self._msix) else None
        registers.add_structures(space)
        window = registers.add_window(space)
        self._window = ConfigurationWindow(space, window, self.read, self.write)
        return msix

    def _message_control(self) -> int:
        if self._msix_capability is None:
            return 0
        return self._space.load(self._msix_capability + _MESSAGE_CONTROL, 2)

    def _read_isr(self, _offset: int, data: memoryview) -> None:
        if data:  # reading takes what is read, and nothing takes nothing
            data[:] = self._interrupts.take_isr().to_bytes(len(data), "little")

    def _write_device(self, offset: int, data: memoryview) -> None:
        self._life.write_config(offset, bytes(data))

    def _notify(self, offset: int, _data: memoryview) -> None:
        """A queue is kicked by where it is written, not by what: an ioeventfd sees no value."""
        queue, rest = divmod(offset, registers.NOTIFY_MULTIPLIER)
        if not rest and self._life.can_notify(queue):
            self._kick(queue)


def _drop(_offset: int, _data: memoryview) -> None:
    """Nothing can be written here."""


def _zeros(_offset: int, data: memoryview) -> None:
    """Nothing can be read here."""
    data[:] = bytes(len(data))
