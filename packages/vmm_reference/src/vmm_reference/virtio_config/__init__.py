"""The virtio devices of a machine, as frozen records, each the value of its flag.

The spelling is cloud-hypervisor's. What only the host knows (whether a file is there and can be a
disk) is checked where the device is made. Each device has a module.
"""

from vmm_reference.virtio_config.console import ConsoleConfig, ConsoleMode
from vmm_reference.virtio_config.disk import DiskConfig
from vmm_reference.virtio_config.net import NetConfig
from vmm_reference.virtio_config.rng import RngConfig
from vmm_reference.virtio_config.transport import VirtioTransport

__all__ = [
    "ConsoleConfig",
    "ConsoleMode",
    "DiskConfig",
    "NetConfig",
    "RngConfig",
    "VirtioTransport",
]
