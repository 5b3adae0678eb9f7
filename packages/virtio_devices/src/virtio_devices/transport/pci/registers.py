"""Where a virtio-pci device's structures are: one BAR, each in pages of its own.

=======  ==========================================================
0x0000   common configuration (virtio 1.2 §4.1.4.3)
0x1000   ISR status (§4.1.4.5)
0x2000   device configuration (§4.1.4.6)
0x4000   MSI-X table (PCI Local Bus 3.0 §6.8.2), up to 256 entries
0x5000   MSI-X pending bits
0x6000   notifications (§4.1.4.4), four bytes for each queue
0x8000   end
=======  ==========================================================

A driver learns this from the vendor capabilities. The order is ours.
"""

from __future__ import annotations

from struct import pack

from virtio_devices.features import DeviceId
from virtio_devices.transport.pci.configuration import PciIdentity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtio_devices.transport.pci.configuration import ConfigurationSpace

#: The BAR, of 64 bits, behind which a virtio device's structures are.
BAR_INDEX = 0

#: Bytes behind the BAR.
BAR_SIZE = 0x8000

COMMON, COMMON_SIZE = 0x0000, 0x3C
ISR, ISR_SIZE = 0x1000, 1
DEVICE, DEVICE_SIZE = 0x2000, 0x1000
MSIX_TABLE, MSIX_TABLE_SIZE = 0x4000, 0x1000
MSIX_PENDING, MSIX_PENDING_SIZE = 0x5000, 0x20
NOTIFY, NOTIFY_SIZE = 0x6000, 0x2000

NOTIFY_MULTIPLIER = 4
MAX_VECTORS = 256
MAX_QUEUES = NOTIFY_SIZE // NOTIFY_MULTIPLIER

_VENDOR = 0x1AF4  # §4.1.2.1
_FIRST_DEVICE_ID = 0x1040
_REVISION = 1  # not transitional (§4.1.2.1)
_SUBSYSTEM = 0x40
_CLASSES = {
    int(DeviceId.NET): 0x020000,
    int(DeviceId.BLOCK): 0x018000,
    int(DeviceId.CONSOLE): 0x078000,
}
_OTHER_CLASS = 0xFF0000

_CAPABILITY_VENDOR = 0x09
_CAPABILITY_MSIX = 0x11
_COMMON_CFG, _NOTIFY_CFG, _ISR_CFG, _DEVICE_CFG, _PCI_CFG = 1, 2, 3, 4, 5

# struct virtio_pci_cap without its first two bytes (§4.1.4): length, type, BAR, id, offset, length.
_CAPABILITY = "<BBBBxxII"
_CAPABILITY_SIZE = 16


def identity(device_id: int) -> PciIdentity:
    """What a function with a virtio device of this type says it is (§4.1.2)."""
    return PciIdentity(
        _VENDOR,
        _FIRST_DEVICE_ID + device_id,
        _CLASSES.get(device_id, _OTHER_CLASS),
        revision=_REVISION,
        subsystem_vendor=_VENDOR,
        subsystem=_SUBSYSTEM,
    )


def add_structures(space: ConfigurationSpace) -> None:
    """Add the capabilities that lead a driver to the structures."""
    notify = pack("<I", NOTIFY_MULTIPLIER)
    _add(space, _COMMON_CFG, COMMON, COMMON_SIZE)
    _add(space, _NOTIFY_CFG, NOTIFY, NOTIFY_SIZE, notify)
    _add(space, _ISR_CFG, ISR, ISR_SIZE)
    _add(space, _DEVICE_CFG, DEVICE, DEVICE_SIZE)


def add_window(space: ConfigurationSpace) -> int:
    """Add the capability through which the BAR can be accessed; returns its offset (§4.1.4.9)."""
    body = pack(_CAPABILITY, _CAPABILITY_SIZE + 4, _PCI_CFG, 0, 0, 0, 0) + bytes(4)
    writable = pack(_CAPABILITY, 0, 0, 0xFF, 0, 0xFFFF_FFFF, 0xFFFF_FFFF) + b"\xff" * 4
    return space.add_capability(_CAPABILITY_VENDOR, body, writable)


def add_msix(space: ConfigurationSpace, vectors: int) -> int:
    """Add the MSI-X capability; returns its offset (PCI Local Bus 3.0 §6.8.2)."""
    body = pack("<HII", vectors - 1, MSIX_TABLE | BAR_INDEX, MSIX_PENDING | BAR_INDEX)
    return space.add_capability(_CAPABILITY_MSIX, body, pack("<H", 0xC000))


def _add(space: ConfigurationSpace, kind: int, offset: int, size: int, extra: bytes = b"") -> None:
    length = _CAPABILITY_SIZE + len(extra)
    body = pack(_CAPABILITY, length, kind, BAR_INDEX, 0, offset, size) + extra
    space.add_capability(_CAPABILITY_VENDOR, body)
