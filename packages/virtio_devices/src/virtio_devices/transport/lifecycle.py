"""What every transport does alike: status, features, queue set-up, activation, reset.

A driver that breaks the order is refused: its write changes nothing, which it sees by reading
back, and the VMM may hear of it. What breaks a running device (rings that make no sense, a
host failure) becomes DEVICE_NEEDS_RESET (virtio 1.2 §2.1.2).

Thread safety: any thread may call anything. One lock serialises what changes the life of the
device with the device's own work; reads and notifications take no part in it.
"""

from __future__ import annotations

from threading import RLock

from virtio_devices.device import restarts_queues, saves_state
from virtio_devices.errors import (
    DeviceFailed,
    DriverViolation,
    FeatureViolation,
    InvalidState,
    QueueSetupViolation,
    VirtioError,
    VirtioUsageError,
)
from virtio_devices.features import Feature
from virtio_devices.queue.layout import MAX_QUEUE_SIZE
from virtio_devices.transport.activation import Activation
from virtio_devices.transport.generation import Generation
from virtio_devices.transport.setup import QueueSetup
from virtio_devices.transport.state import LifecycleState, check_life, require
from virtio_devices.transport.status import (
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    NEEDS_RESET,
    steps_between,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from virtio_devices.device import Device
    from virtio_devices.queue.state import QueueState
    from virtio_devices.transport.activation import Events
    from vm_memory import GuestMemory

#: Features of rings and of the device's interface that are offered for every device.
RING_FEATURES = int(
    Feature.VERSION_1 | Feature.EVENT_IDX | Feature.INDIRECT_DESC | Feature.RING_PACKED
)

_VERSION_1 = int(Feature.VERSION_1)
_RING_RESET = int(Feature.RING_RESET)

_DEVICE_BITS = (1 << 24) - 1 | 0x3FFF << 50  # virtio 1.2 §2.2: 0 to 23 and 50 to 127 (to 63 here)
_FEATURE_WORDS = 2


class DeviceLifecycle:
    """One device as its driver sees it, without any register layout.

    Args:
        device: what is driven.
        memory: the guest's memory.
        events: how the transport tells the driver something.
        queue_rules: the section of VIRTIO 1.2 that says how this transport's driver may write the
            registers of a queue.
        report: told of every refused write and every reason for a reset; a guest decides how
            often, so a log behind it wants a limit.

    Raises:
        VirtioUsageError: the device offers a feature bit that is the transport's, or a queue
            size that is no power of 2.
    """

    def __init__(
        self,
        device: Device,
        memory: GuestMemory,
        events: Events,
        *,
        queue_rules: str,
        report: Callable[[VirtioError], None] | None = None,
    ) -> None:
        if device.features & ~_DEVICE_BITS:
            raise VirtioUsageError(
                f"feature bits {device.features & ~_DEVICE_BITS:#x} are no device type's"
            )
        for size in device.queue_sizes:
            if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
                raise VirtioUsageError(f"a queue cannot have {size} entries")
        self._restarting = device if restarts_queues(device) else None
        self.offered = device.features | RING_FEATURES
        if self._restarting is not None:
            self.offered |= _RING_RESET
        self.queues = tuple(QueueSetup(size) for size in device.queue_sizes)
        self._device = device
        self._memory = memory
        self._events = events
        self._queue_rules = queue_rules
        self._report = report if report is not None else _ignore
        self._lock = RLock()
        self._status = 0
        self._features = 0
        self._unknown_features = False
        self._activation: Activation | None = None
        self._generation = Generation(device)

    # Status

    @property
    def status(self) -> int:
        """The device status as the driver reads it."""
        activation = self._activation
        needs_reset = activation is not None and activation.failure is not None
        return self._status | (NEEDS_RESET if needs_reset else 0)

    @property
    def failure(self) -> DriverViolation | DeviceFailed | None:
        """Why DEVICE_NEEDS_RESET is set, if it is."""
        activation = self._activation
        return None if activation is None else activation.failure

    def write_status(self, value: int) -> None:
        """The driver wrote its status: 0 resets, anything else must be the next step."""
        with self._lock:
            if value == 0:
                self.reset()
                return
            try:
                for step in steps_between(self.status, value):
                    self._take_step(step)
            except DriverViolation as error:
                self._report(error)

    def reset(self) -> None:
        """Back to the state after power-on; the device touches no guest memory afterwards."""
        with self._lock:
            activation, self._activation = self._activation, None
            if activation is not None:
                activation.retire()
            self._device.reset()
            for queue in self.queues:
                queue.clear()
            self._features = 0
            self._unknown_features = False
            self._status = 0

    def _take_step(self, step: int) -> None:
        if step == FEATURES_OK:
            self._check_features()
        self._status |= step
        if step == DRIVER_OK:
            self._activate()
        elif step == FAILED and self._activation is not None:
            for index in self._activation.queues:
                self._activation.stop_queue(index)

    # Features

    @property
    def features(self) -> int:
        """The features that the driver accepted so far."""
        return self._features

    def offered_word(self, word: int) -> int:
        """32 of the offered feature bits; no bits beyond the second word."""
        return self.offered >> 32 * word & 0xFFFF_FFFF if word < _FEATURE_WORDS else 0

    def accept_word(self, word: int, value: int) -> None:
        """The driver accepts 32 feature bits; what it wrote for the same bits before is void."""
        with self._lock:
            if self._status & (DRIVER | FEATURES_OK) != DRIVER:
                reason = "are written outside of negotiation"
                self._report(FeatureViolation(value << 32 * min(word, 2), reason, "3.1.1"))
            elif word < _FEATURE_WORDS:
                mask = 0xFFFF_FFFF << 32 * word
                self._features = self._features & ~mask | value << 32 * word
            elif value:
                self._unknown_features = True  # nothing is offered there

    def _check_features(self) -> None:
        """Raise unless FEATURES_OK may be set (virtio 1.2 §2.2.2)."""
        excess = self._features & ~self.offered
        if self._unknown_features or excess:
            raise FeatureViolation(excess, "were accepted and not offered", "2.2.1")
        if not self._features & _VERSION_1:
            raise FeatureViolation(self._features, "lack VERSION_1", "6.1")
        if not self._device.accept_features(self._features):
            raise FeatureViolation(self._features, "do not suit the device", "2.2.2")

    # Queues

    def configure_queue(self, index: int) -> QueueSetup | None:
        """The registers of a queue if they may be written now, else None."""
        with self._lock:
            if index >= len(self.queues):
                return None
            setup = self.queues[index]
            if setup.ready:
                self.refuse_queue(index, "is changed while it is ready")
                return None
            if not self._can_set_up(setup):
                self.refuse_queue(index, "is set up outside of initialization", "3.1.1")
                return None
            return setup

    def enable_queue(self, index: int) -> None:
        """The driver says that a queue is set up."""
        with self._lock:
            if index >= len(self.queues):
                return
            setup = self.queues[index]
            if not self._can_set_up(setup):
                self.refuse_queue(index, "is enabled outside of initialization", "3.1.1")
                return
            setup.ready = True
            if setup.was_reset:
                self._restart_queue(index, setup)

    def disable_queue(self, index: int) -> None:
        """The driver takes a queue back; the device no longer touches it on return."""
        with self._lock:
            if index < len(self.queues):
                self.queues[index].ready = False
                if self._activation is not None:
                    self._activation.stop_queue(index)

    def reset_queue(self, index: int) -> None:
        """The driver resets one queue alone; it is done on return (virtio 1.2 §2.6.1.1).

        Afterwards the driver may set the queue up anew and enable it.
        """
        with self._lock:
            if index >= len(self.queues):
                return
            activation = self._activation
            if activation is None or self._restarting is None or not self._features & _RING_RESET:
                self.refuse_queue(index, "is reset outside of operation or of RING_RESET", "2.6.1")
                return
            activation.reset_queue(index)
            self.queues[index].clear()
            self.queues[index].was_reset = True
            self._restarting.reset_queue(index)

    def refuse_queue(self, index: int, reason: str, clause: str = "") -> None:
        """Report a write that a queue's registers do not take.

        Args:
            index: the queue.
            reason: the rest of a sentence that begins with the queue.
            clause: the section that says so; the transport's own if it is not given.
        """
        self._report(QueueSetupViolation(index, reason, clause or self._queue_rules))

    def _restart_queue(self, index: int, setup: QueueSetup) -> None:
        activation = self._activation
        if activation is None or self._restarting is None:
            return
        setup.was_reset = False
        try:
            queue = setup.make_queue(self._memory, self._features)
            activation.restart_queue(index, queue)
            self._restarting.restart_queue(index, queue)
        except (DriverViolation, DeviceFailed) as error:
            activation.needs_reset(error)

    def _can_set_up(self, setup: QueueSetup) -> bool:
        started = self._status & (FEATURES_OK | DRIVER_OK | FAILED)
        return started == FEATURES_OK or (setup.was_reset and not self._status & FAILED)

    # Work

    def can_notify(self, index: int) -> bool:
        """Whether a notification for this queue means anything now."""
        activation = self._activation
        return activation is not None and activation.running and index in activation.queues

    def process_queue(self, index: int) -> bool:
        """Let the device work off one queue; True if it wants to be called again soon.

        Nothing happens outside of DRIVER_OK, so a late or forged notification is harmless.
        """
        with self._lock:
            activation = self._activation
            if activation is None or not self.can_notify(index):
                return False
            try:
                return self._device.process_queue(index) and activation.running
            except (DriverViolation, DeviceFailed) as error:
                activation.needs_reset(error)
                return False

    def _activate(self) -> None:
        activation = self._activation = Activation(self._events, self._report)
        try:
            for index, setup in enumerate(self.queues):
                if setup.ready:
                    activation.queues[index] = setup.make_queue(self._memory, self._features)
            self._device.activate(self._memory, dict(activation.queues), activation)
        except (DriverViolation, DeviceFailed) as error:
            activation.needs_reset(error)

    # Configuration space

    def config(self) -> tuple[bytes, int]:
        """The configuration space now, and its generation; see `Generation`."""
        return self._generation.now()

    def read_config(self, offset: int, data: memoryview) -> None:
        """Fill `data` from `offset` on; zeros follow the configuration space."""
        size = len(data)
        data[:] = self.config()[0][offset : offset + size].ljust(size, b"\0")

    def write_config(self, offset: int, data: bytes) -> None:
        """Pass the driver's write on if it lies wholly in the configuration space."""
        with self._lock:
            if offset + len(data) <= len(self._device.config):
                self._device.write_config(offset, data)

    # Saving

    def save(self) -> LifecycleState:
        """All of it, between two calls of `process_queue`.

        Raises:
            VirtioUsageError: chains are in flight that the device did not put back.
        """
        with self._lock:
            device = self._device.save() if saves_state(self._device) else None
            config, generation = self._generation.seen()
            return LifecycleState(
                status=self._status,
                features=self._features,
                unknown_features=self._unknown_features,
                failure=None if self.failure is None else str(self.failure),
                config=config,
                generation=generation,
                registers=tuple([setup.save() for setup in self.queues]),
                rings=self._rings(),
                device=device,
            )

    def restore(self, state: LifecycleState) -> None:
        """Go on from a record, in a device that no driver has found yet.

        Raises:
            InvalidState: the record contradicts itself, the device or the guest's memory. The
                device is as new.
            DeviceFailed: the host cannot give the device what it needs.
        """
        check_life(state, len(self.queues))
        size = len(state.config)
        require(size == len(self._device.config), f"has a configuration space of {size} bytes")
        with self._lock:
            require(not self._status, "is restored into a device that is in use")
            try:
                self._take(state)
            except VirtioError as error:
                self.reset()
                if isinstance(error, (DeviceFailed, InvalidState)):
                    raise
                raise InvalidState(f"is impossible here: {error}") from error

    def _rings(self) -> tuple[QueueState | None, ...]:
        """Of a device that failed nothing is kept: its queues rest until the reset."""
        activation = self._activation
        if activation is None or not activation.running:
            return (None,) * len(self.queues)
        found = [activation.queues.get(index) for index in range(len(self.queues))]
        return tuple([None if queue is None else queue.state() for queue in found])

    def _take(self, state: LifecycleState) -> None:
        self._features = state.features
        self._unknown_features = state.unknown_features
        for setup, registers in zip(self.queues, state.registers, strict=True):
            setup.restore(registers)
        if state.status & FEATURES_OK:
            self._check_features()
        self._status = state.status
        if state.status & DRIVER_OK:
            self._resume(state)
        if saves_state(self._device):
            self._device.restore(state.device)
        else:
            require(state.device is None, "is of a device that remembers more")
        if self._activation is not None:
            self._activation.quiet = False
        self._generation.restore(state.config, state.generation)

    def _resume(self, state: LifecycleState) -> None:
        activation = self._activation = Activation(self._events, self._report)
        activation.quiet = True
        if state.failure is not None:
            activation.failure = DeviceFailed(state.failure)
            return
        for index, (setup, ring) in enumerate(zip(self.queues, state.rings, strict=True)):
            if ring is not None:
                queue = setup.restore_queue(self._memory, self._features, ring)
                if self._status & FAILED:
                    queue.stop()
                activation.queues[index] = queue
        self._device.activate(self._memory, dict(activation.queues), activation)


def _ignore(_error: VirtioError) -> None:
    """Report to nobody."""
