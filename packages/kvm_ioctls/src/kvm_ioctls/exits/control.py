"""The guest halts, shuts down, is interrupted, or wants something of the machine."""

from __future__ import annotations

from enum import IntEnum

from kvm_ioctls._ffi import lib
from kvm_ioctls.exits._base import ExitBase


class Hlt(ExitBase):
    """The guest executed HLT, and no in-kernel interrupt controller waits for its wake-up."""

    __slots__ = ()


class Shutdown(ExitBase):
    """The guest's processor shut down: a triple fault."""

    __slots__ = ()


class Interrupted(ExitBase):
    """A signal, a kick or `immediate_exit` ended run(); nothing is wrong, run again."""

    __slots__ = ()


class IrqWindowOpen(ExitBase):
    """The guest can take an interrupt, as `request_interrupt_window` asked."""

    __slots__ = ()


class Nmi(ExitBase):
    """KVM_EXIT_NMI."""

    __slots__ = ()


class SetTpr(ExitBase):
    """The guest changed its task priority: see `RunPage.cr8`."""

    __slots__ = ()


class DirtyRingFull(ExitBase):
    """The vCPU's ring of dirty pages is full: harvest it."""

    __slots__ = ()


class ApResetHold(ExitBase):
    """An SEV-ES guest's processor waits for its start."""

    __slots__ = ()


class X86BusLock(ExitBase):
    """The guest locked the bus across a cache line."""

    __slots__ = ()


class Watchdog(ExitBase):
    """The guest's watchdog timer ran out (PowerPC)."""

    __slots__ = ()


class SystemEventType(IntEnum):
    """What the guest asks for in a `SystemEvent`; of a newer kernel, `type` is another number."""

    SHUTDOWN = lib.KVM_SYSTEM_EVENT_SHUTDOWN
    RESET = lib.KVM_SYSTEM_EVENT_RESET
    CRASH = lib.KVM_SYSTEM_EVENT_CRASH
    WAKEUP = lib.KVM_SYSTEM_EVENT_WAKEUP
    SUSPEND = lib.KVM_SYSTEM_EVENT_SUSPEND
    SEV_TERM = lib.KVM_SYSTEM_EVENT_SEV_TERM
    TDX_FATAL = lib.KVM_SYSTEM_EVENT_TDX_FATAL


class SystemEvent(ExitBase):
    """The guest asks for shutdown, reset and the like: `type` is one of `SystemEventType`."""

    __slots__ = ("data", "type")
    __match_args__ = ("type", "data")

    def __init__(self, type: int, data: tuple[int, ...]) -> None:  # noqa: A002 - the kernel's name
        self.type = type
        self.data = data


class IoapicEoi(ExitBase):
    """The guest ended a level-triggered interrupt of a userspace IOAPIC."""

    __slots__ = ("vector",)
    __match_args__ = ("vector",)

    def __init__(self, vector: int) -> None:
        self.vector = vector


class TprAccess(ExitBase):
    """The guest accessed its task priority register at `rip`."""

    __slots__ = ("is_write", "rip")
    __match_args__ = ("rip", "is_write")

    def __init__(self, rip: int, is_write: bool) -> None:
        self.rip = rip
        self.is_write = is_write


class Notify(ExitBase):
    """The guest held the processor without a window for events for too long.

    With KVM_NOTIFY_CONTEXT_INVALID (1) in `flags` its state is lost.
    """

    __slots__ = ("flags",)
    __match_args__ = ("flags",)

    def __init__(self, flags: int) -> None:
        self.flags = flags
