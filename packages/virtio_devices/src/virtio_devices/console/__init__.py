"""The console device (virtio 1.2 §5.3): streams of bytes between a guest and the host.

`Console` is the device, a `ConsolePort` says where the bytes of one stream go and come from.
`transmit` and `receive` move them, `control` has the messages about ports.
"""

from virtio_devices.console.device import Console
from virtio_devices.console.features import ConsoleFeature
from virtio_devices.console.port import ConsolePort
from virtio_devices.console.state import ConsoleState

__all__ = ["Console", "ConsoleFeature", "ConsolePort", "ConsoleState"]
