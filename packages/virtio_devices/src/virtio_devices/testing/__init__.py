"""The driver's side of virtio, for tests of devices.

`SplitDriver` fills a split virtqueue in guest memory as a guest's driver does, and holds what
the device returns to the specification: a broken rule is a `DeviceViolation` with its clause.
`MmioDriver` brings a device behind a virtio-mmio register block up, `PciDriver` one that is a PCI
function. `NetDriver` sends and receives frames. `InterruptCounter` stands in for an interrupt line
or a message, `InterruptPin` for a pin.
"""

from virtio_devices.testing.interrupts import InterruptCounter, InterruptPin
from virtio_devices.testing.mmio import MmioDriver
from virtio_devices.testing.net import NetDriver
from virtio_devices.testing.pci import PciDriver
from virtio_devices.testing.split import SplitDriver, UsedBuffer

__all__ = [
    "InterruptCounter",
    "InterruptPin",
    "MmioDriver",
    "NetDriver",
    "PciDriver",
    "SplitDriver",
    "UsedBuffer",
]
