"""The state of a guest that is a hypervisor itself."""

from __future__ import annotations

import errno

from kvm_ioctls._arguments import of_kind
from kvm_ioctls._descriptor import Resource
from kvm_ioctls._struct import KvmStruct
from kvm_ioctls.errors import KvmError


class NestedState(KvmStruct, ctype="struct kvm_nested_state", grows=True):
    """What a vCPU knows of its guest's guests (KVM_GET_NESTED_STATE).

    `raw` is `size` bytes: a header, then what `format` (0 for VMX, 1 for SVM) and `flags` say.
    Source: Documentation/virt/kvm/api.rst, section 4.114.
    """

    flags: int = 0
    format: int = 0
    size: int = 0


class Nested(Resource):
    """Nested virtualization."""

    def get_nested_state(self) -> NestedState:
        """KVM_GET_NESTED_STATE, sized as the vCPU needs it."""
        state = NestedState(size=NestedState.SIZE)
        while True:
            room = state.size
            try:
                self._fd.ioctl_buffer("KVM_GET_NESTED_STATE", state.raw)
            except KvmError as error:
                # E2BIG: the kernel has put the size that it needs there.
                if error.errno != errno.E2BIG or state.size <= room:
                    raise
                state = NestedState.from_bytes(bytes(state.raw).ljust(state.size, b"\0"))
            else:
                return NestedState.from_bytes(state.raw[: max(state.size, NestedState.SIZE)])

    def set_nested_state(self, state: NestedState) -> None:
        """KVM_SET_NESTED_STATE.

        Raises:
            ValueError: the record says that it is longer than it is, and KVM would read past it.
        """
        if of_kind("state", state, NestedState).size > len(state.raw):
            raise ValueError(f"a nested state of {state.size} bytes has only {len(state.raw)}")
        self._fd.ioctl_buffer("KVM_SET_NESTED_STATE", state.raw)
