"""Looking at a guest from outside: debugging, address translation, faulting memory in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls._arguments import elements
from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls.flags import GuestDebug
from kvm_ioctls.structs import Translation

if TYPE_CHECKING:
    from collections.abc import Sequence


class Debugging(Resource):
    """Breakpoints, single steps, and where addresses lead."""

    def translate(self, linear_address: int) -> Translation:
        """KVM_TRANSLATE: where the guest's own page tables lead."""
        return self._fd.fill("KVM_TRANSLATE", Translation(linear_address=linear_address))

    def set_guest_debug(self, control: int, debugreg: Sequence[int] = ()) -> None:
        """KVM_SET_GUEST_DEBUG; what it asks for arrives as `Debug` exits.

        Args:
            control: `GuestDebug`; 0 switches debugging off.
            debugreg: x86: DR0 to DR7 for hardware breakpoints; arm64 has `set_arm_guest_debug()`.
        """
        what: dict[str, object] = {"control": control}
        if debugreg:
            what["arch"] = {"debugreg": elements("debugreg", debugreg)}
        self._fd.ioctl_record("KVM_SET_GUEST_DEBUG", record("struct kvm_guest_debug", what))

    def single_step(self) -> None:
        """KVM_SET_GUEST_DEBUG: every instruction is followed by a `Debug` exit."""
        self.set_guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)

    def pre_fault_memory(self, gpa: int, size: int) -> int:
        """KVM_PRE_FAULT_MEMORY: maps guest memory before the guest touches it.

        Returns:
            How many of the `size` bytes at `gpa` were done; a signal may end it early.
        """
        made = record("struct kvm_pre_fault_memory", {"gpa": gpa, "size": size})
        self._fd.ioctl_record("KVM_PRE_FAULT_MEMORY", made)
        return size - made.size
