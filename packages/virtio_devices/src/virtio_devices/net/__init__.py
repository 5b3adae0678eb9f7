"""The network device (virtio 1.2 §5.1): frames between a guest and a descriptor of the host.

`Net` is the device, `Tap` the backend that a VMM usually gives it. Each aspect has a module:
`receive` and `transmit` move frames, `control` takes commands apart, `features` and `config` are
what a driver sees before any of that.
"""

from virtio_devices.net.backend import NetBackend
from virtio_devices.net.counters import NetCounters
from virtio_devices.net.device import Net
from virtio_devices.net.features import NetFeature
from virtio_devices.net.state import NetState
from virtio_devices.net.tap import Tap

__all__ = ["Net", "NetBackend", "NetCounters", "NetFeature", "NetState", "Tap"]
