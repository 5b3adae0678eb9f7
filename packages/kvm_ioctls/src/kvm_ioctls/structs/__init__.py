"""The kernel's structures, with the kernel's own member names.

Sources: `<linux/kvm.h>`, `<asm/kvm.h>` and Documentation/virt/kvm/api.rst, where each structure is
explained under the ioctl that takes it.  Numbers are plain `int`; addresses and sizes are bytes,
times are nanoseconds.

A structure of another architecture, or one that is newer than the header of the build, has no
layout here: making one raises `NotInHeaderError`.
"""

from kvm_ioctls.structs.controllers import (
    ClockData,
    IoapicEntry,
    IoapicState,
    IrqChip,
    IrqChipId,
    LapicState,
    PicState,
    PitChannelState,
    PitState2,
)
from kvm_ioctls.structs.events import (
    ArmExceptionEvent,
    ArmVcpuEvents,
    ExceptionEvent,
    InterruptEvent,
    MpState,
    NmiEvent,
    SmiEvent,
    TripleFault,
    VcpuEvents,
)
from kvm_ioctls.structs.registers import (
    DebugRegs,
    Dtable,
    Fpu,
    Regs,
    Segment,
    Sregs,
    Sregs2,
    Xcr,
    Xcrs,
    Xsave,
)
from kvm_ioctls.structs.tables import (
    CpuidEntry,
    MachineCheck,
    MsrEntry,
    Translation,
)

__all__ = [
    "ArmExceptionEvent",
    "ArmVcpuEvents",
    "ClockData",
    "CpuidEntry",
    "DebugRegs",
    "Dtable",
    "ExceptionEvent",
    "Fpu",
    "InterruptEvent",
    "IoapicEntry",
    "IoapicState",
    "IrqChip",
    "IrqChipId",
    "LapicState",
    "MachineCheck",
    "MpState",
    "MsrEntry",
    "NmiEvent",
    "PicState",
    "PitChannelState",
    "PitState2",
    "Regs",
    "Segment",
    "SmiEvent",
    "Sregs",
    "Sregs2",
    "Translation",
    "TripleFault",
    "VcpuEvents",
    "Xcr",
    "Xcrs",
    "Xsave",
]
