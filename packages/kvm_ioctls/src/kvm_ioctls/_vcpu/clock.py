"""A vCPU's time stamp counter and kvmclock."""

from __future__ import annotations

from kvm_ioctls._arguments import word
from kvm_ioctls._ffi import lib
from kvm_ioctls.devices import DeviceAttributes


class VcpuClock(DeviceAttributes):
    """The time stamp counter."""

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: the rate of the guest's time stamp counter in kHz."""
        return self._fd.ioctl("KVM_GET_TSC_KHZ")

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ."""
        self._fd.ioctl("KVM_SET_TSC_KHZ", khz, "khz")

    def get_tsc_offset(self) -> int:
        """KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: the guest's counter less the host's."""
        value = self.get_device_attr(lib.KVM_VCPU_TSC_CTRL, lib.KVM_VCPU_TSC_OFFSET, 8)
        return int.from_bytes(value, "little")

    def set_tsc_offset(self, offset: int) -> None:
        """KVM_SET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: for migration without losing time.

        A negative offset is read back as the 64-bit number that it is.
        """
        value = word("offset", offset, 64).to_bytes(8, "little")
        self.set_device_attr(lib.KVM_VCPU_TSC_CTRL, lib.KVM_VCPU_TSC_OFFSET, value)

    def kvmclock_ctrl(self) -> None:
        """KVM_KVMCLOCK_CTRL: tells the guest's watchdogs that it was stopped for a while.

        EINVAL for a guest that does not use kvmclock.
        """
        self._fd.ioctl("KVM_KVMCLOCK_CTRL")
