"""The network device as a transport sees it: features, configuration, and its life."""

from __future__ import annotations

from threading import Lock

from virtio_devices.errors import (
    DeviceFailed,
    DriverViolation,
    InvalidState,
    VirtioUsageError,
    os_reason,
)
from virtio_devices.features import DeviceId
from virtio_devices.net import config
from virtio_devices.net.control import ControlCommands
from virtio_devices.net.counters import NetCounters
from virtio_devices.net.features import (
    BACKEND_FEATURES,
    GUEST_OFFLOADS,
    NetFeature,
    consistent_part,
    is_consistent,
)
from virtio_devices.net.queues import NetQueues
from virtio_devices.net.receive import Receiver
from virtio_devices.net.state import NetState
from virtio_devices.net.transmit import Transmitter
from virtio_devices.records import check_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtio_devices.descriptor import OwnDescriptor, Readiness
    from virtio_devices.interrupt import DeviceInterrupt
    from virtio_devices.net.backend import NetBackend
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

_QUEUE_SIZE = 256
_CONTROL_QUEUE_SIZE = 64

_OWN_FEATURES = int(
    NetFeature.MAC
    | NetFeature.MRG_RXBUF
    | NetFeature.STATUS
    | NetFeature.CTRL_VQ
    | NetFeature.CTRL_RX
    | NetFeature.CTRL_RX_EXTRA
    | NetFeature.CTRL_MAC_ADDR
    | NetFeature.GUEST_ANNOUNCE
)


class Net:
    """A network card.

    Its queues of frames must be a `SplitQueue` or a `PackedQueue`, as the transports make them:
    they are worked off in C.

    Args:
        backend: the other end of the cable, for example a `Tap`; it stays the caller's to close,
            and its files stay open until the device is reset as well.
        mac: 6 bytes, the card's address; random if it is not given.
        mtu: bytes behind the Ethernet header that the driver is told to send at most, and that
            it is given at most in one frame. Not offered if it is not given.
        queue_size: entries of each queue of frames, a power of 2.
        offloads: which `NetFeature` bits of the backend's are offered; what needs one that is
            missing is not offered either.

    Attributes:
        counters: what went through and what did not.

    Raises:
        VirtioUsageError: an address or an MTU that cannot be.
    """

    device_id = DeviceId.NET

    def __init__(
        self,
        backend: NetBackend,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        queue_size: int = _QUEUE_SIZE,
        offloads: int = BACKEND_FEATURES,
    ) -> None:
        if not backend.queue_fds:
            raise VirtioUsageError("a network device needs a backend with a descriptor")
        self._initial_mac = config.random_mac() if mac is None else mac
        if not config.is_station(self._initial_mac):
            raise VirtioUsageError(f"{self._initial_mac.hex(':')} is no MAC address of one station")
        if mtu is not None:
            config.check_mtu(mtu)
        self._backend = backend
        self._pairs = len(backend.queue_fds)
        self._mtu = mtu or 0
        self._queue_size = queue_size
        self._mac = self._initial_mac
        self._status = config.LINK_UP
        self._config = b""
        self._config_lock = Lock()  # guards status and config, which the VMM's threads change too
        self.counters = NetCounters()
        self.features = self._offer(backend.features & offloads & BACKEND_FEATURES)
        self._features = 0
        self._offloads = 0
        self._queues: NetQueues | None = None
        self._readiness: dict[int, Readiness] = {}
        self._interrupt: DeviceInterrupt | None = None
        self._update_config()

    # What a driver sees first

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Entries of the queue pairs, and of the control queue."""
        return (self._queue_size,) * (2 * self._pairs) + (_CONTROL_QUEUE_SIZE,)

    @property
    def config(self) -> bytes:
        """The configuration space."""
        return self._config

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing can be written: an address is set by a command (§5.1.4.2)."""

    def accept_features(self, features: int) -> bool:
        """Whether each feature has what it needs beside it (§5.1.3.1)."""
        self._features = features
        return is_consistent(features)

    # Life

    def activate(
        self,
        memory: GuestMemory,  # noqa: ARG002 - everything goes through the chains
        queues: Mapping[int, Queue],
        interrupt: DeviceInterrupt,
    ) -> None:
        """Start to move frames, through one pair of queues until the driver wants more.

        Raises:
            DeviceFailed: the backend does not do what it offered.
            VirtioUsageError: a queue of frames is none of this package's.
        """
        features = self._features
        try:
            self._backend.set_active_queues(1)
            self._offloads = features & GUEST_OFFLOADS
            self._backend.set_offloads(self._offloads)
            self._queues = self._make_queues(features)
            for index, queue in queues.items():
                self._queues.open(index, queue)
        except OSError as error:
            self._close_queues()
            raise DeviceFailed(
                f"the backend of a network device failed: {os_reason(error)}"
            ) from error
        self._interrupt = interrupt

    def process_queue(self, index: int) -> bool:
        """Work off one queue; True if more is left.

        After an error every queue rests, and no descriptor is waited for, until the next reset.
        """
        queues, interrupt = self._queues, self._interrupt
        if queues is None or interrupt is None:
            return False
        try:
            more = queues.process(index, link_up=bool(self._status & config.LINK_UP))
        except DriverViolation:
            self._close_queues()
            raise
        except DeviceFailed:  # the backend is gone, and the other end of the cable with it
            self._close_queues()
            self.set_link(up=False)
            raise
        if queues.needs_notification(index):
            interrupt.used_buffer(index)
        return more

    @property
    def readiness(self) -> Mapping[int, int]:
        """Descriptors that bring frames, and those on which frames wait to be sent."""
        return {} if self._queues is None else self._queues.readiness()

    def reset_queue(self, index: int) -> None:
        """Forget one queue, and the frame that waits for it (virtio 1.2 §2.6.1)."""
        if self._queues is not None:
            self._queues.close(index)

    def restart_queue(self, index: int, queue: Queue) -> None:
        """Go on with a new queue in the place of one that was reset.

        Raises:
            DeviceFailed: the host has no descriptor to spare.
        """
        if self._queues is None:
            return
        try:
            self._queues.open(index, queue)
        except OSError as error:
            raise DeviceFailed(f"a queue of a network device failed: {error}") from error

    def reset(self) -> None:
        """Forget the driver, and the address that it chose."""
        self._close_queues()
        self._interrupt = None
        self._features = self._offloads = 0
        self._mac = self._initial_mac
        self._change_status(config.ANNOUNCE, on=False)

    def save(self) -> NetState:
        """What the driver chose, and the state of the link.

        Frames that were read from the backend while the driver had no room for them stay with this
        card: for a restored one they are lost, as frames may be on any network.
        """
        if self._queues is None:
            return NetState(self._mac, self._status, 0, 1)
        self._queues.put_back()
        return NetState(self._mac, self._status, self._offloads, self._queues.active_pairs)

    def restore(self, state: object) -> None:
        """Go on as the record says; the backend is told.

        Raises:
            InvalidState: it is none of a network card, or of a different one.
            DeviceFailed: the backend does not do it.
        """
        if not isinstance(state, NetState):
            raise InvalidState("is none of a network card")
        check_record(state, NetState)
        mac, status, offloads, pairs = state
        own_mac = mac == self._initial_mac or self._features & NetFeature.CTRL_MAC_ADDR
        own_pairs = pairs == 1 or self._features & NetFeature.MQ
        if not own_mac or not config.is_station(mac) or not own_pairs:
            raise InvalidState("has an address or queues that its driver cannot choose")
        if status & ~(config.LINK_UP | config.ANNOUNCE) or offloads & ~self._features:
            raise InvalidState(f"has status {status:#x} and offloads {offloads:#x}")
        if self._queues is None and (offloads, pairs) != (0, 1):
            raise InvalidState("has offloads or pairs of queues in use, and no queues")
        self._mac, self._status = mac, status
        self._update_config()
        if self._queues is None:
            return
        if not 1 <= pairs <= self._pairs or offloads & ~GUEST_OFFLOADS:
            raise InvalidState(f"has {pairs} pairs of queues and offloads {offloads:#x}")
        if not self.set_queue_pairs(pairs) or not self.set_guest_offloads(offloads):
            raise DeviceFailed("the backend of a network device does not take what it had before")

    # For the VMM, from any thread

    def set_link(self, *, up: bool) -> None:
        """Plug the cable in or pull it: the driver is told, and no frame passes without it."""
        self._change_status(config.LINK_UP, on=up)

    def announce(self) -> None:
        """Let the driver announce its addresses, for example after a migration (§5.1.6.5.4).

        Nothing happens if the driver cannot (GUEST_ANNOUNCE).
        """
        if self._features & NetFeature.GUEST_ANNOUNCE:
            self._change_status(config.ANNOUNCE, on=True)

    # For the control queue, see `ControlEffects`

    def set_mac(self, mac: bytes) -> bool:
        """Show the address that the driver uses."""
        if not config.is_station(mac):
            return False
        self._mac = mac
        self._update_config()
        return True

    def set_queue_pairs(self, count: int) -> bool:
        """Use as many pairs as the driver wants."""
        if self._queues is None or not 1 <= count <= self._pairs:
            return False
        try:
            self._backend.set_active_queues(count)
        except OSError:
            return False
        self._queues.active_pairs = count
        return True

    def set_guest_offloads(self, features: int) -> bool:
        """Let the backend give such frames."""
        try:
            self._backend.set_offloads(features)
        except OSError:
            return False
        self._offloads = features
        return True

    def acknowledge_announcement(self) -> bool:
        """The driver did as it was asked."""
        self._change_status(config.ANNOUNCE, on=False)
        return True

    # Inside

    def _offer(self, offloads: int) -> int:
        features = _OWN_FEATURES | consistent_part(offloads)
        if features & GUEST_OFFLOADS:
            features |= int(NetFeature.CTRL_GUEST_OFFLOADS)
        if self._pairs > 1:
            features |= int(NetFeature.MQ)
        if self._mtu:
            features |= int(NetFeature.MTU)
        return features

    def _make_queues(self, features: int) -> NetQueues:
        mergeable = bool(features & NetFeature.MRG_RXBUF)
        mtu = self._mtu if features & NetFeature.MTU else 0
        counters = self.counters

        def receiver(queue: Queue, source: OwnDescriptor, readiness: Readiness) -> Receiver:
            return Receiver(queue, source, readiness, counters, mergeable=mergeable, mtu=mtu)

        def transmitter(queue: Queue, target: OwnDescriptor, readiness: Readiness) -> Transmitter:
            return Transmitter(queue, target, readiness, counters)

        return NetQueues(
            features,
            self._backend.queue_fds,
            self._readiness,
            ControlCommands(features, self),
            receiver=receiver,
            transmitter=transmitter,
        )

    def _close_queues(self) -> None:
        if self._queues is not None:
            self._queues.close_all()
            self._queues = None

    def _change_status(self, bit: int, *, on: bool) -> None:
        """Set or clear a bit, and tell the driver of one that it is not the origin of."""
        with self._config_lock:
            before = self._status
            self._status = before | bit if on else before & ~bit
        self._update_config()
        interrupt = self._interrupt
        if self._status != before and interrupt is not None and (on or bit == config.LINK_UP):
            interrupt.config_change()

    def _update_config(self) -> None:
        with self._config_lock:
            self._config = config.pack_config(self._mac, self._status, self._pairs, self._mtu)
