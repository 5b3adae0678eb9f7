"""What only arm64's virtual machines can be asked."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from kvm_ioctls._descriptor import Resource, number, record
from kvm_ioctls._ffi import ffi
from kvm_ioctls.arm64 import VcpuInit

if TYPE_CHECKING:
    from kvm_ioctls.run_page import WritableBuffer

_FEATURE_REGISTERS = 3 * 8 * 8  # KVM_ARM_FEATURE_ID_RANGE_SIZE


class Arm64Vm(Resource):
    """arm64: processor type, device addresses, memory tags, counters."""

    def get_preferred_target(self) -> VcpuInit:
        """KVM_ARM_PREFERRED_TARGET: what `VcpuFd.vcpu_init()` takes on this host."""
        return self._fd.fetch("KVM_ARM_PREFERRED_TARGET", VcpuInit)

    def arm_set_device_addr(self, device: int, address: int) -> None:
        """KVM_ARM_SET_DEVICE_ADDR: where the guest finds an in-kernel device."""
        what = record("struct kvm_arm_device_addr", {"id": device, "addr": address})
        self._fd.ioctl_record("KVM_ARM_SET_DEVICE_ADDR", what)

    def arm_mte_copy_tags(self, guest_ipa: int, tags: WritableBuffer, *, to_guest: bool) -> int:
        """KVM_ARM_MTE_COPY_TAGS: copies memory tags, a byte for each 16 bytes of memory.

        Returns:
            How many bytes of guest memory were done; may be fewer than there are tags for.
        """
        direction = number("KVM_ARM_TAGS_TO_GUEST" if to_guest else "KVM_ARM_TAGS_FROM_GUEST")
        held = ffi.from_buffer("char[]", memoryview(tags))
        try:
            where = {"guest_ipa": guest_ipa, "length": ffi.sizeof(held) * 16, "addr": held}
            copy = record("struct kvm_arm_copy_mte_tags", where | {"flags": direction})
            return self._fd.ioctl_record("KVM_ARM_MTE_COPY_TAGS", copy)
        finally:
            ffi.release(held)

    def arm_get_reg_writable_masks(self) -> list[int]:
        """KVM_ARM_GET_REG_WRITABLE_MASKS: which bits of the feature ID registers can be set.

        Returns:
            A mask for each of the 192 registers with op0 3, op1 0, 1 or 3 and CRn 0: in that order,
            then by CRm and op2.
        """
        masks = array("Q", bytes(_FEATURE_REGISTERS * 8))
        held = ffi.from_buffer("char[]", masks)
        what = {"addr": int(ffi.cast("uintptr_t", held))}
        wanted = record("struct reg_mask_range", what)
        self._fd.ioctl_record("KVM_ARM_GET_REG_WRITABLE_MASKS", wanted)
        return masks.tolist()

    def arm_set_counter_offset(self, offset: int) -> None:
        """KVM_ARM_SET_COUNTER_OFFSET: what the guest's counters lag behind the host's."""
        what = record("struct kvm_arm_counter_offset", {"counter_offset": offset})
        self._fd.ioctl_record("KVM_ARM_SET_COUNTER_OFFSET", what)
