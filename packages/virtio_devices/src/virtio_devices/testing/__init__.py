"""The driver's side of virtio, for tests of devices.

`SplitDriver` and `PackedDriver` fill a virtqueue in guest memory as a guest's driver does, and
hold what the device returns to the specification: a broken rule is a `DeviceViolation` with its
clause.
`MmioDriver` brings a device behind a virtio-mmio register block up, `PciDriver` one that is a PCI
function; `bring_up` does all of it at once, with queues in the format that was negotiated. `Loop`
lets the device work. `NetDriver` sends and receives frames, `BlockDriver` makes requests of a disk.
`InterruptCounter` stands in for an interrupt line or a message, `InterruptPin` for a pin.
"""

from virtio_devices.testing.block import BlockAnswer, BlockDriver
from virtio_devices.testing.buffers import UsedBuffer
from virtio_devices.testing.interrupts import InterruptCounter, InterruptPin
from virtio_devices.testing.loop import Loop
from virtio_devices.testing.mmio import MmioDriver
from virtio_devices.testing.net import NetDriver
from virtio_devices.testing.packed import PackedDriver
from virtio_devices.testing.pci import PciDriver
from virtio_devices.testing.queues import bring_up, negotiated_queue
from virtio_devices.testing.split import SplitDriver

__all__ = [
    "BlockAnswer",
    "BlockDriver",
    "InterruptCounter",
    "InterruptPin",
    "Loop",
    "MmioDriver",
    "NetDriver",
    "PackedDriver",
    "PciDriver",
    "SplitDriver",
    "UsedBuffer",
    "bring_up",
    "negotiated_queue",
]
