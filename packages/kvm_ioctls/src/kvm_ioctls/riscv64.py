"""The names of riscv64's numbers: registers, interrupts, its interrupt controller's attributes.

They are ABI, so they are here on every machine; a test compares them with riscv64's header.
Sources: Documentation/virt/kvm/api.rst, sections 4.16 and 4.68, and the header of Linux 6.18,
arch/riscv/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from enum import IntEnum

from kvm_ioctls._ffi import lib

_TYPE_SHIFT = 24


class RegisterType(IntEnum):
    """What a register belongs to (KVM_REG_RISCV_*)."""

    CONFIG = 1
    CORE = 2
    CSR = 3
    TIMER = 4
    FP_F = 5
    FP_D = 6
    ISA_EXT = 7
    SBI_EXT = 8
    VECTOR = 9
    SBI_STATE = 10


class Interrupt(IntEnum):
    """What `VcpuFd.interrupt()` does with the external interrupt (KVM_INTERRUPT_*)."""

    SET = 2**32 - 1
    UNSET = 2**32 - 2


class AiaGroup(IntEnum):
    """Groups of the AIA's attributes (KVM_DEV_RISCV_AIA_GRP_*)."""

    CONFIG = 0
    ADDR = 1
    CTRL = 2
    APLIC = 3
    IMSIC = 4


class AiaConfig(IntEnum):
    """Attributes of `AiaGroup.CONFIG` (KVM_DEV_RISCV_AIA_CONFIG_*), 32-bit values."""

    MODE = 0
    IDS = 1
    SRCS = 2
    GROUP_BITS = 3
    GROUP_SHIFT = 4
    HART_BITS = 5
    GUEST_BITS = 6


class AiaMode(IntEnum):
    """Values of `AiaConfig.MODE` (KVM_DEV_RISCV_AIA_MODE_*)."""

    EMUL = 0
    HWACCEL = 1
    AUTO = 2


def register(kind: RegisterType, index: int, size: int = 8) -> int:
    """The id by which `VcpuFd.get_one_reg()` knows a register.

    Args:
        kind: what it belongs to.
        index: which of them: its place in the structure that the kernel's header has for this kind,
            counted in registers; of ISA_EXT and SBI_EXT the extension's number.
        size: its length in bytes, a power of two.
    """
    length = (size.bit_length() - 1) << lib.KVM_REG_SIZE_SHIFT
    return lib.KVM_REG_RISCV | length | kind << _TYPE_SHIFT | index
