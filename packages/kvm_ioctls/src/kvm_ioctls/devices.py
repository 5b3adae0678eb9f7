"""In-kernel devices, and the attributes of devices, machines and vCPUs.

An attribute is named by a group and a number, and its value is a buffer whose size they decide.
Source: Documentation/virt/kvm/api.rst, sections 4.79 to 4.81, and Documentation/virt/kvm/devices/.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING, Self

from kvm_ioctls._arguments import octets, within
from kvm_ioctls._descriptor import Descriptor, Resource, adopt, record
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.errors import KvmError

if TYPE_CHECKING:
    from kvm_ioctls._struct import Buffer

_LONGEST_VALUE = 64 * 1024  # bytes; the longest is s390's list of facilities, some 4 KiB


class DeviceType(IntEnum):
    """Kinds of in-kernel devices (KVM_DEV_TYPE_*); a plain number does as well."""

    VFIO = lib.KVM_DEV_TYPE_VFIO
    ARM_VGIC_V2 = lib.KVM_DEV_TYPE_ARM_VGIC_V2
    ARM_VGIC_V3 = lib.KVM_DEV_TYPE_ARM_VGIC_V3
    ARM_VGIC_ITS = lib.KVM_DEV_TYPE_ARM_VGIC_ITS
    RISCV_AIA = lib.KVM_DEV_TYPE_RISCV_AIA


class DeviceAttributes(Resource):
    """What has attributes."""

    def has_device_attr(self, group: int, attribute: int) -> bool:
        """KVM_HAS_DEVICE_ATTR: whether there is such an attribute."""
        what = {"group": group, "attr": attribute}
        try:
            self._fd.ioctl_record("KVM_HAS_DEVICE_ATTR", record("struct kvm_device_attr", what))
        except KvmError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
            return False
        return True

    def get_device_attr(self, group: int, attribute: int, size: int) -> bytes:
        """KVM_GET_DEVICE_ATTR: the first `size` bytes of the value.

        How long a value is, its documentation says; the kernel does not.
        """
        room = bytes(within("size", size, 0, _LONGEST_VALUE))
        return bytes(self._attribute("KVM_GET_DEVICE_ATTR", group, attribute, room)[:size])

    def set_device_attr(self, group: int, attribute: int, value: Buffer = b"") -> None:
        """KVM_SET_DEVICE_ATTR; some attributes are commands and take no value.

        What `value` is shorter than the attribute counts as zero.
        """
        self._attribute("KVM_SET_DEVICE_ATTR", group, attribute, octets("value", value))

    def _attribute(self, request: str, group: int, attribute: int, value: bytes) -> bytearray:
        # The kernel reads or writes as much as the attribute is long, whatever we have: the room
        # is longer than the longest value that it knows.
        room = bytearray(value) + bytes(_LONGEST_VALUE)
        held = ffi.from_buffer("char[]", room)
        what = {"group": group, "attr": attribute, "addr": int(ffi.cast("uintptr_t", held))}
        self._fd.ioctl_record(request, record("struct kvm_device_attr", what))
        return room


class DeviceFd(DeviceAttributes):
    """An in-kernel device, made by `VmFd.create_device()`; a context manager."""

    def __init__(self, fd: Descriptor) -> None:
        self._fd = fd

    @classmethod
    def from_fd(cls, number: int) -> Self:
        """Takes over an open descriptor of a device."""
        return cls(adopt(number, "DeviceFd"))


class Devices(DeviceAttributes):
    """Making devices, for virtual machines."""

    def create_device(self, device_type: int) -> DeviceFd:
        """KVM_CREATE_DEVICE.

        Args:
            device_type: `DeviceType`.
        """
        made = record("struct kvm_create_device", {"type": device_type})
        self._fd.ioctl_record("KVM_CREATE_DEVICE", made)
        return DeviceFd(Descriptor(made.fd, "DeviceFd"))

    def has_device(self, device_type: int) -> bool:
        """KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST: whether this KVM has such devices."""
        what = {"type": device_type, "flags": lib.KVM_CREATE_DEVICE_TEST}
        try:
            self._fd.ioctl_record("KVM_CREATE_DEVICE", record("struct kvm_create_device", what))
        except KvmError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        return True
