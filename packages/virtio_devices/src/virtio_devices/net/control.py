"""Commands of the control queue (virtio 1.2 §5.1.6.5): taken apart here, carried out elsewhere."""

from __future__ import annotations

from virtio_devices.errors import RequestTooShort
from virtio_devices.net.features import GUEST_OFFLOADS, NetFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from virtio_devices.queue.chain import DescriptorChain, Reader
else:
    Protocol = object

_OK = b"\0"
_ERROR = b"\1"

# (class, command)
_RX = 0
_RX_COMMANDS = range(2)  # PROMISC, ALLMULTI
_RX_EXTRA_COMMANDS = range(2, 6)  # ALLUNI, NOMULTI, NOUNI, NOBCAST
_MAC_TABLE_SET = (1, 0)
_MAC_ADDR_SET = (1, 1)
_ANNOUNCE_ACK = (3, 0)
_MQ_VQ_PAIRS_SET = (4, 0)
_GUEST_OFFLOADS_SET = (5, 0)

_MAC_SIZE = 6

#: Addresses of one table; a guest chooses the number, and it is read before it is thrown away.
_MAX_TABLE = 4096


class ControlEffects(Protocol):
    """What commands do; each says whether it was done."""

    def set_mac(self, mac: bytes) -> bool:
        """Show these 6 bytes as the device's address."""

    def set_queue_pairs(self, count: int) -> bool:
        """Use the first `count` pairs of queues."""

    def set_guest_offloads(self, features: int) -> bool:
        """Give the driver frames with these offloads."""

    def acknowledge_announcement(self) -> bool:
        """The driver has announced itself."""


class ControlCommands:
    """Handles requests of the control queue.

    What the driver says about addresses that it wants to receive is checked and answered, and
    filters nothing: filtering is best effort, unwanted frames may still arrive (§5.1.6.5.1).

    Args:
        features: what the driver accepted; a command of another feature is refused.
        effects: does what the commands say.
    """

    __slots__ = ("_commands", "_effects", "_features")

    def __init__(self, features: int, effects: ControlEffects) -> None:
        self._features = features
        self._effects = effects
        commands: dict[tuple[int, int], tuple[NetFeature, Callable[[Reader], bool]]] = {
            _MAC_TABLE_SET: (NetFeature.CTRL_RX, self._set_mac_table),
            _MAC_ADDR_SET: (NetFeature.CTRL_MAC_ADDR, self._set_mac),
            _ANNOUNCE_ACK: (NetFeature.GUEST_ANNOUNCE, self._acknowledge),
            _MQ_VQ_PAIRS_SET: (NetFeature.MQ, self._set_queue_pairs),
            _GUEST_OFFLOADS_SET: (NetFeature.CTRL_GUEST_OFFLOADS, self._set_offloads),
        }
        for command in _RX_COMMANDS:
            commands[_RX, command] = (NetFeature.CTRL_RX, self._set_receive_mode)
        for command in _RX_EXTRA_COMMANDS:
            commands[_RX, command] = (NetFeature.CTRL_RX_EXTRA, self._set_receive_mode)
        self._commands = {
            key: handle for key, (feature, handle) in commands.items() if features & feature
        }

    def handle(self, chain: DescriptorChain) -> int:
        """Do one request; returns the bytes written, which are 0 if there is no room to answer."""
        if not chain.writer.size:
            return 0
        chain.writer.write(_OK if self._execute(chain.reader) else _ERROR)
        return 1

    def _execute(self, reader: Reader) -> bool:
        try:
            command = reader.read(2)
            handle = self._commands.get((command[0], command[1]))
            return handle is not None and handle(reader)
        except RequestTooShort:
            return False

    def _set_receive_mode(self, reader: Reader) -> bool:
        return reader.read(1) in {b"\0", b"\1"}

    def _set_mac_table(self, reader: Reader) -> bool:
        """Two tables, unicast and multicast (§5.1.6.5.2)."""
        for _ in range(2):
            entries = _integer(reader, 4)
            if entries > _MAX_TABLE:
                return False
            reader.read(_MAC_SIZE * entries)
        return True

    def _set_mac(self, reader: Reader) -> bool:
        return self._effects.set_mac(reader.read(_MAC_SIZE))

    def _acknowledge(self, _reader: Reader) -> bool:
        return self._effects.acknowledge_announcement()

    def _set_queue_pairs(self, reader: Reader) -> bool:
        return self._effects.set_queue_pairs(_integer(reader, 2))

    def _set_offloads(self, reader: Reader) -> bool:
        """A subset of what was negotiated (§5.1.6.5.6.1)."""
        features = _integer(reader, 8)
        allowed = self._features & GUEST_OFFLOADS
        return not features & ~allowed and self._effects.set_guest_offloads(features)


def _integer(reader: Reader, size: int) -> int:
    return int.from_bytes(reader.read(size), "little")
