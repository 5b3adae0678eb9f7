"""Registers by number: all of arm64's and riscv64's, and the model-specific ones of x86.

Source: Documentation/virt/kvm/api.rst, section 4.68, KVM_SET_ONE_REG.
"""

from __future__ import annotations

import errno
import sys

from kvm_ioctls._arguments import unsigned
from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.errors import KvmError

_X86_MSR = 2 << 32  # KVM_X86_REG_TYPE_MSR (Linux 6.18, arch/x86/include/uapi/asm/kvm.h)


def reg_size(register: int) -> int:
    """How many bytes the register of this id has."""
    number = unsigned("register", register, 64)
    return 1 << ((number & lib.KVM_REG_SIZE_MASK) >> lib.KVM_REG_SIZE_SHIFT)


def msr_register(index: int) -> int:
    """The id by which `get_one_reg()` knows x86's model-specific register `index`."""
    return lib.KVM_REG_X86 | lib.KVM_REG_SIZE_U64 | _X86_MSR | unsigned("index", index, 32)


class OneReg(Resource):
    """Registers by number."""

    def get_one_reg(self, register: int) -> int:
        """KVM_GET_ONE_REG: the value of the register with this id, as an unsigned number."""
        value = bytearray(reg_size(register))
        self._one_reg("KVM_GET_ONE_REG", register, value)
        return int.from_bytes(value, sys.byteorder)

    def set_one_reg(self, register: int, value: int) -> None:
        """KVM_SET_ONE_REG.

        Raises:
            ValueError: `value` does not fit the register.
        """
        size = reg_size(register)
        packed = bytearray(unsigned("value", value, 8 * size).to_bytes(size, sys.byteorder))
        self._one_reg("KVM_SET_ONE_REG", register, packed)

    def _one_reg(self, request: str, register: int, value: bytearray) -> None:
        held = ffi.from_buffer("char[]", value)
        what = {"id": register, "addr": int(ffi.cast("uintptr_t", held))}
        self._fd.ioctl_record(request, record("struct kvm_one_reg", what))

    def get_reg_list(self) -> list[int]:
        """KVM_GET_REG_LIST: the ids of this vCPU's registers."""
        room = 0
        while True:
            packed = bytearray(8 * (room + 1))
            packed[:8] = room.to_bytes(8, sys.byteorder)
            words = memoryview(packed).cast("Q")
            try:
                self._fd.ioctl_buffer("KVM_GET_REG_LIST", packed)
            except KvmError as error:
                # E2BIG: the kernel has put the number of registers there.
                if error.errno != errno.E2BIG or words[0] <= room:
                    raise
                room = words[0]
            else:
                return list(words[1 : 1 + words[0]])
