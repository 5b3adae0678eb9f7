"""A virtual machine's time."""

from __future__ import annotations

from kvm_ioctls._descriptor import Resource
from kvm_ioctls.structs import ClockData


class Clock(Resource):
    """kvmclock and the time stamp counters' rate."""

    def get_clock(self) -> ClockData:
        """KVM_GET_CLOCK: the guest's kvmclock, in nanoseconds."""
        return self._fd.fetch("KVM_GET_CLOCK", ClockData)

    def set_clock(self, clock: ClockData) -> None:
        """KVM_SET_CLOCK; of the `flags` that `get_clock()` reported, only REALTIME may stay."""
        self._fd.put("KVM_SET_CLOCK", clock, ClockData)

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: the rate that new vCPUs get; for one vCPU, ask that."""
        return self._fd.ioctl("KVM_GET_TSC_KHZ")

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ: the rate of vCPUs made from now on (KVM_CAP_VM_TSC_CONTROL)."""
        self._fd.ioctl("KVM_SET_TSC_KHZ", khz, "khz")
