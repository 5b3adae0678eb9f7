"""Virtio for virtual machine monitors: queues, transports and devices, in three parts.

* A *queue* (`SplitQueue`, `PackedQueue`) gives out requests from rings in guest memory and takes
  them back.
* A *device* (`Rng`, `Block`, or anything with the methods of `Device`) processes requests.
* A *transport* (`MmioTransport`, `PciTransport`) puts a device behind registers that a driver
  finds.

A device does not know its transport, and a transport does not know its device's requests:

>>> from vm_memory import GuestMemory
>>> from virtio_devices.testing import InterruptCounter
>>> memory = GuestMemory.from_ranges([(0, 0x10000)])
>>> transport = MmioTransport(Rng(), memory, InterruptCounter(), kick=print)
>>> magic = bytearray(4)
>>> transport.read(0, memoryview(magic))
>>> magic
bytearray(b'virt')

What a guest's driver may do wrong is a `DriverViolation` that names the clause of VIRTIO 1.2;
a running device that meets one asks its driver for a reset. `virtio_devices.testing` is the
driver's side, for tests of devices.
"""

from virtio_devices.block import (
    Backend,
    Block,
    BlockFeature,
    BlockState,
    DiskSizes,
    FileBackend,
    RawImage,
)
from virtio_devices.console import Console, ConsoleFeature, ConsolePort, ConsoleState
from virtio_devices.device import Device, RestartsQueues, SavesState
from virtio_devices.errors import (
    BufferOutsideMemory,
    DeviceFailed,
    DeviceViolation,
    DiskImageError,
    DriverViolation,
    FeatureViolation,
    InvalidAvailableIndex,
    InvalidChain,
    InvalidHead,
    InvalidIndirectTable,
    InvalidQueueLayout,
    InvalidState,
    QueueError,
    QueueSetupViolation,
    RequestTooShort,
    StatusViolation,
    TapError,
    VirtioError,
    VirtioUsageError,
)
from virtio_devices.features import DeviceId, Feature
from virtio_devices.interrupt import DeviceInterrupt, Interrupt
from virtio_devices.net import Net, NetBackend, NetCounters, NetFeature, NetState, Tap
from virtio_devices.queue import (
    DescriptorChain,
    PackedLayout,
    PackedQueue,
    Queue,
    QueueState,
    Reader,
    SplitLayout,
    SplitQueue,
    Writer,
    serve,
)
from virtio_devices.rng import Rng
from virtio_devices.transport import (
    MMIO_SIZE,
    QUEUE_NOTIFY_OFFSET,
    ConfigurationSpace,
    DeviceStatus,
    InterruptLine,
    LifecycleState,
    MmioState,
    MmioTransport,
    MsiVector,
    PciIdentity,
    PciState,
    PciTransport,
    QueueRegisters,
)

__all__ = [
    "MMIO_SIZE",
    "QUEUE_NOTIFY_OFFSET",
    "Backend",
    "Block",
    "BlockFeature",
    "BlockState",
    "BufferOutsideMemory",
    "ConfigurationSpace",
    "Console",
    "ConsoleFeature",
    "ConsolePort",
    "ConsoleState",
    "DescriptorChain",
    "Device",
    "DeviceFailed",
    "DeviceId",
    "DeviceInterrupt",
    "DeviceStatus",
    "DeviceViolation",
    "DiskImageError",
    "DiskSizes",
    "DriverViolation",
    "Feature",
    "FeatureViolation",
    "FileBackend",
    "Interrupt",
    "InterruptLine",
    "InvalidAvailableIndex",
    "InvalidChain",
    "InvalidHead",
    "InvalidIndirectTable",
    "InvalidQueueLayout",
    "InvalidState",
    "LifecycleState",
    "MmioState",
    "MmioTransport",
    "MsiVector",
    "Net",
    "NetBackend",
    "NetCounters",
    "NetFeature",
    "NetState",
    "PackedLayout",
    "PackedQueue",
    "PciIdentity",
    "PciState",
    "PciTransport",
    "Queue",
    "QueueError",
    "QueueRegisters",
    "QueueSetupViolation",
    "QueueState",
    "RawImage",
    "Reader",
    "RequestTooShort",
    "RestartsQueues",
    "Rng",
    "SavesState",
    "SplitLayout",
    "SplitQueue",
    "StatusViolation",
    "Tap",
    "TapError",
    "VirtioError",
    "VirtioUsageError",
    "Writer",
    "serve",
]
