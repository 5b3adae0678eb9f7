"""A driver for a network device, as far as tests need one (virtio 1.2 §5.1.5, §5.1.6)."""

from __future__ import annotations

from virtio_devices.errors import DeviceViolation
from virtio_devices.net.features import NetFeature
from virtio_devices.net.frame import HEADER_SIZE, NUM_BUFFERS
from virtio_devices.testing.queues import negotiated_queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.testing.packed import PackedDriver
    from virtio_devices.testing.queues import TransportDriver
    from virtio_devices.testing.split import SplitDriver
    from vm_memory import GuestMemory


class NetDriver:
    """Sends and receives frames by the queues of a network device.

    It notifies the device whenever the device wants that; somebody else lets the device work.

    Args:
        transport: reaches the device's registers.
        memory: the guest's memory.
        base: guest physical address of a piece of `span` bytes for each queue in use.
        span: bytes of each piece.
        queue_size: entries of each queue; the control queue has 64 at most.

    Attributes:
        features: what was negotiated.
        queues: the queues in use, by index.
    """

    def __init__(
        self,
        transport: TransportDriver,
        memory: GuestMemory,
        base: int,
        *,
        span: int = 0x40000,
        queue_size: int = 64,
    ) -> None:
        self._transport = transport
        self._memory = memory
        self._base = base
        self._span = span
        self._queue_size = queue_size
        self.features = 0
        self.queues: dict[int, SplitDriver | PackedDriver] = {}

    def start(self, wanted: int) -> int:
        """Negotiate, set up every queue that there is, and start the device.

        Returns:
            The features that both accepted.
        """
        self.features = self._transport.negotiate(wanted)
        count = 2 * self.pairs + bool(self.features & NetFeature.CTRL_VQ)
        for index in range(count):
            queue = negotiated_queue(
                self._memory,
                self._base + index * self._span,
                self._queue_size if index < 2 * self.pairs else min(self._queue_size, 64),
                self.features,
                span=self._span,
            )
            self.queues[index] = queue
            self._transport.add_queue(index, queue)
        self._transport.start()
        return self.features

    @property
    def pairs(self) -> int:
        """How many pairs of queues there are to use."""
        if not self.features & NetFeature.MQ:
            return 1
        return int.from_bytes(self._transport.read_config(8, 2), "little")

    def post(self, count: int, size: int, *, pair: int = 0) -> None:
        """Give the device `count` receive buffers of `size` bytes each."""
        for _ in range(count):
            self.queues[2 * pair].add(writable=[size])
        self._kick(2 * pair)

    def send(self, *frames: bytes, header: bytes = bytes(HEADER_SIZE), pair: int = 0) -> None:
        """Make frames available, each in two descriptors: the header and the rest."""
        for frame in frames:
            self.queues[2 * pair + 1].add([header, frame])
        self._kick(2 * pair + 1)

    def sent(self, *, pair: int = 0) -> int:
        """How many frames the device is done with since the last call."""
        return len(self.queues[2 * pair + 1].collect())

    def receive(self, *, pair: int = 0) -> list[tuple[bytes, bytes]]:
        """The frames that came since the last call, each as (header, frame).

        Raises:
            DeviceViolation: the device says that a frame has buffers that are not used yet, or
                more than one without MRG_RXBUF.
        """
        frames = []
        used = self.queues[2 * pair].collect()
        while used:
            data = used.pop(0).data
            header = data[:HEADER_SIZE]
            count = int.from_bytes(header[NUM_BUFFERS], "little")
            most = len(used) + 1 if self.features & NetFeature.MRG_RXBUF else 1
            if not 1 <= count <= most:
                raise DeviceViolation(
                    f"a frame claims {count} buffers where {most} came back", "5.1.6.4.1"
                )
            data += b"".join([used.pop(0).data for _ in range(count - 1)])
            frames.append((header, data[HEADER_SIZE:]))
        return frames

    def command(self, number: tuple[int, int], data: bytes) -> None:
        """Make a command available: (class, command), and what belongs to it."""
        self.queues[2 * self.pairs].add([bytes(number), data], [1])
        self._kick(2 * self.pairs)

    def answers(self) -> list[int]:
        """The answers to commands that came since the last call; 0 is VIRTIO_NET_OK."""
        return [used.data[0] for used in self.queues[2 * self.pairs].collect()]

    def _kick(self, index: int) -> None:
        if self.queues[index].needs_kick():
            self._transport.notify(index)
