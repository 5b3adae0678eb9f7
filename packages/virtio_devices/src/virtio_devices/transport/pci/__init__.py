"""Modern virtio-pci: a device as a PCI function (virtio 1.2 §4.1).

`configuration` is the configuration space of any function, `msix` its message-signalled interrupts;
neither knows virtio. `registers` is the layout that drivers find, `common` the common configuration
structure, `interrupts` what a notification becomes, `window` the way to the BAR through the
configuration space; `function` puts them together.
"""

from virtio_devices.transport.pci.configuration import ConfigurationSpace, PciIdentity
from virtio_devices.transport.pci.function import PciTransport
from virtio_devices.transport.pci.interrupts import InterruptLine
from virtio_devices.transport.pci.msix import MsiVector

__all__ = [
    "ConfigurationSpace",
    "InterruptLine",
    "MsiVector",
    "PciIdentity",
    "PciTransport",
]
