"""What arm64 has of its own: its vCPUs' making and debugging, the names of its numbers.

The numbers are ABI, so they are here on every machine; a test compares them with arm64's header.
Sources: Documentation/virt/kvm/api.rst, sections 4.25, 4.68 and 4.82, and
Documentation/virt/kvm/devices/arm-vgic*.rst and vcpu.rst.
"""

from __future__ import annotations

from enum import IntEnum

from kvm_ioctls._ffi import lib
from kvm_ioctls._struct import ZERO, KvmStruct

_SYSTEM_REGISTER = 0x13 << 16
_CORE_REGISTER = 0x10 << 16


class VcpuInit(KvmStruct, ctype="struct kvm_vcpu_init"):
    """The processor that a vCPU is to be: its `target` and `features`, 32-bit words of bits.

    `VcpuFeature` has the bits' numbers.
    """

    target: int = 0
    features: memoryview = ZERO


class ArmDebugRegisters(KvmStruct, ctype="struct kvm_guest_debug_arch"):
    """Hardware breakpoints and watchpoints: control and value registers, sixteen of each."""

    dbg_bcr: memoryview = ZERO
    dbg_bvr: memoryview = ZERO
    dbg_wcr: memoryview = ZERO
    dbg_wvr: memoryview = ZERO


class ArmGuestDebug(KvmStruct, ctype="struct kvm_guest_debug"):
    """How a guest is debugged (KVM_SET_GUEST_DEBUG): `control` is `GuestDebug`."""

    control: int = 0
    arch: ArmDebugRegisters = ZERO


class VcpuFeature(IntEnum):
    """Bits of `VcpuInit.features` (KVM_ARM_VCPU_*)."""

    POWER_OFF = 0
    EL1_32BIT = 1
    PSCI_0_2 = 2
    PMU_V3 = 3
    SVE = 4
    PTRAUTH_ADDRESS = 5
    PTRAUTH_GENERIC = 6
    HAS_EL2 = 7
    HAS_EL2_E2H0 = 8


class IrqType(IntEnum):
    """What kind of interrupt a line is (KVM_ARM_IRQ_TYPE_*)."""

    CPU = 0
    SPI = 1
    PPI = 2


class VgicGroup(IntEnum):
    """Groups of a GIC's attributes (KVM_DEV_ARM_VGIC_GRP_*)."""

    ADDR = 0
    DIST_REGS = 1
    CPU_REGS = 2
    NR_IRQS = 3
    CTRL = 4
    REDIST_REGS = 5
    CPU_SYSREGS = 6
    LEVEL_INFO = 7
    ITS_REGS = 8


class VgicAddress(IntEnum):
    """Attributes of `VgicGroup.ADDR` (KVM_VGIC_*): where the guest finds the GIC's parts."""

    V2_ADDR_TYPE_DIST = 0
    V2_ADDR_TYPE_CPU = 1
    V3_ADDR_TYPE_DIST = 2
    V3_ADDR_TYPE_REDIST = 3
    ITS_ADDR_TYPE = 4
    V3_ADDR_TYPE_REDIST_REGION = 5


class VgicControl(IntEnum):
    """Attributes of `VgicGroup.CTRL` (KVM_DEV_ARM_*): commands."""

    VGIC_CTRL_INIT = 0
    ITS_SAVE_TABLES = 1
    ITS_RESTORE_TABLES = 2
    VGIC_SAVE_PENDING_TABLES = 3
    ITS_CTRL_RESET = 4


class VcpuGroup(IntEnum):
    """Groups of a vCPU's attributes (KVM_ARM_VCPU_*)."""

    PMU_V3_CTRL = 0
    TIMER_CTRL = 1
    PVTIME_CTRL = 2


class PmuAttribute(IntEnum):
    """Attributes of `VcpuGroup.PMU_V3_CTRL` (KVM_ARM_VCPU_PMU_V3_*)."""

    IRQ = 0
    INIT = 1
    FILTER = 2
    SET_PMU = 3


class TimerAttribute(IntEnum):
    """Attributes of `VcpuGroup.TIMER_CTRL` (KVM_ARM_VCPU_TIMER_*)."""

    IRQ_VTIMER = 0
    IRQ_PTIMER = 1


class PvtimeAttribute(IntEnum):
    """The attribute of `VcpuGroup.PVTIME_CTRL` (KVM_ARM_VCPU_PVTIME_*)."""

    IPA = 0


def irq_line(kind: IrqType, number: int, vcpu: int = 0) -> int:
    """What `VmFd.set_irq_line()` calls an interrupt.

    Args:
        kind: SPI: one of the machine's, PPI: one of a vCPU's, CPU: its IRQ (0) or FIQ (1) pin where
            the GIC is not KVM's.
        number: the interrupt's, as the GIC counts.
        vcpu: the vCPU's number, unless it is an SPI.

    Raises:
        ValueError: the number or the vCPU has more bits than there are.
    """
    if not (0 <= number < 1 << 16 and 0 <= vcpu < 1 << 12):
        raise ValueError(f"there is no interrupt {number} of vCPU {vcpu}")
    return vcpu >> 8 << 28 | kind << 24 | (vcpu & 0xFF) << 16 | number


def system_register(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The id by which `VcpuFd.get_one_reg()` knows a system register, from its encoding."""
    place = (op0 & 3) << 14 | (op1 & 7) << 11 | (crn & 15) << 7 | (crm & 15) << 3 | op2 & 7
    return lib.KVM_REG_ARM64 | lib.KVM_REG_SIZE_U64 | _SYSTEM_REGISTER | place


def core_register(offset: int, size: int = 8) -> int:
    """The id of a general register.

    Args:
        offset: where it lies in arm64's `struct kvm_regs`, in bytes: X0 to X30 from 0 on, SP at
            248, PC at 256, PSTATE at 264.
        size: its length in bytes, a power of two.
    """
    length = (size.bit_length() - 1) << lib.KVM_REG_SIZE_SHIFT
    return lib.KVM_REG_ARM64 | length | _CORE_REGISTER | offset // 4
