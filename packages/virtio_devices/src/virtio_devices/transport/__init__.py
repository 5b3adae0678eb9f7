"""Transports: how a driver reaches a device's registers.

`lifecycle` is what all transports share (status, features, queue set-up, resets); a module per
transport lays it out as registers. Nothing here knows a device's requests.
"""

from virtio_devices.transport.mmio import MMIO_SIZE, QUEUE_NOTIFY_OFFSET, MmioTransport
from virtio_devices.transport.pci import (
    ConfigurationSpace,
    InterruptLine,
    MsiVector,
    PciIdentity,
    PciTransport,
)
from virtio_devices.transport.state import LifecycleState, MmioState, PciState, QueueRegisters
from virtio_devices.transport.status import DeviceStatus

__all__ = [
    "MMIO_SIZE",
    "QUEUE_NOTIFY_OFFSET",
    "ConfigurationSpace",
    "DeviceStatus",
    "InterruptLine",
    "LifecycleState",
    "MmioState",
    "MmioTransport",
    "MsiVector",
    "PciIdentity",
    "PciState",
    "PciTransport",
    "QueueRegisters",
]
