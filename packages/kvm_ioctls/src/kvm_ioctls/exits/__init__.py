r"""Why a vCPU stopped.

One small class per reason, made for `match`::

    match vcpu.run():
        case IoOut(port=0x3F8, data=data):
            console.write(data)
        case IoIn(data=data):
            data[:] = b"\xff" * len(data)
        case Hlt():
            break

An exit's `data`, its `payload`, its `record` and the parts of that are valid until the next
`run()`: using one afterwards is a ValueError.  What you make of a view yourself is not followed: a
slice `data[:]` and `memoryview(data)` go on to show the page, whatever is there by then, and
writing to them writes to it.  Where a guest waits for an
answer (`IoIn`, `MmioRead`, `X86Rdmsr`, `Hypercall`), write it into the exit before the next
`run()`.

Source: Documentation/virt/kvm/api.rst, section 5, "The kvm_run structure".
"""

from __future__ import annotations

from typing import TypeAlias

from kvm_ioctls.exits.access import (
    IoIn,
    IoOut,
    MmioRead,
    MmioWrite,
)
from kvm_ioctls.exits.answers import (
    Hypercall,
    X86Rdmsr,
    X86Wrmsr,
)
from kvm_ioctls.exits.control import (
    ApResetHold,
    DirtyRingFull,
    Hlt,
    Interrupted,
    IoapicEoi,
    IrqWindowOpen,
    Nmi,
    Notify,
    SetTpr,
    Shutdown,
    SystemEvent,
    SystemEventType,
    TprAccess,
    Watchdog,
    X86BusLock,
)
from kvm_ioctls.exits.foreign import (
    ArmNisv,
    Hyperv,
    Raw,
    RiscvCsr,
    RiscvSbi,
    Unknown,
    Xen,
)
from kvm_ioctls.exits.trouble import (
    ArmDebug,
    Debug,
    FailEntry,
    GuestException,
    InternalError,
    MemoryFault,
)

__all__ = [
    "ApResetHold",
    "ArmDebug",
    "ArmNisv",
    "Debug",
    "DirtyRingFull",
    "Exit",
    "FailEntry",
    "GuestException",
    "Hlt",
    "Hypercall",
    "Hyperv",
    "InternalError",
    "Interrupted",
    "IoIn",
    "IoOut",
    "IoapicEoi",
    "IrqWindowOpen",
    "MemoryFault",
    "MmioRead",
    "MmioWrite",
    "Nmi",
    "Notify",
    "Raw",
    "RiscvCsr",
    "RiscvSbi",
    "SetTpr",
    "Shutdown",
    "SystemEvent",
    "SystemEventType",
    "TprAccess",
    "Unknown",
    "Watchdog",
    "X86BusLock",
    "X86Rdmsr",
    "X86Wrmsr",
    "Xen",
]

Exit: TypeAlias = (
    IoIn
    | IoOut
    | MmioRead
    | MmioWrite
    | Hlt
    | Shutdown
    | Interrupted
    | ApResetHold
    | ArmDebug
    | ArmNisv
    | Debug
    | DirtyRingFull
    | FailEntry
    | GuestException
    | Hypercall
    | Hyperv
    | InternalError
    | IoapicEoi
    | IrqWindowOpen
    | MemoryFault
    | Nmi
    | Notify
    | Raw
    | RiscvCsr
    | RiscvSbi
    | SetTpr
    | SystemEvent
    | TprAccess
    | Unknown
    | Watchdog
    | X86BusLock
    | X86Rdmsr
    | X86Wrmsr
    | Xen
)
