"""Something went wrong: KVM gave up, the processor refused, memory is gone; and debugging."""

from __future__ import annotations

from kvm_ioctls._ffi import lib
from kvm_ioctls.exits._base import ExitBase

_SUBERRORS = {
    lib.KVM_INTERNAL_ERROR_EMULATION: "KVM cannot emulate the instruction",
    lib.KVM_INTERNAL_ERROR_SIMUL_EX: "several exceptions at once",
    lib.KVM_INTERNAL_ERROR_DELIVERY_EV: "an unexpected exit while an event was delivered",
    lib.KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: "an exit that KVM does not know",
}

# SDM vol. 3 §27.8, "VM-entry failures during or after loading guest state": bit 31 marks them.
_VMX_ENTRY_FAILURES = {
    0x8000_0021: "the guest's state is not a processor's",
    0x8000_0022: "a register of the load list is refused",
    0x8000_0029: "a machine check while the guest was entered",
}
_SVM_INVALID = 2**64 - 1  # APM vol. 2 §15.33, VMEXIT_INVALID


class InternalError(ExitBase):
    """KVM gave up.

    Attributes:
        suberror: KVM_INTERNAL_ERROR_*.
        data: what KVM adds to it, 64-bit words.
        insn_bytes: the instruction that KVM cannot emulate, where it says so; 15 bytes or fewer,
            of which the instruction is the beginning.
    """

    __slots__ = ("data", "insn_bytes", "suberror")
    __match_args__ = ("suberror", "data", "insn_bytes")

    def __init__(self, suberror: int, data: tuple[int, ...], insn_bytes: bytes) -> None:
        self.suberror = suberror
        self.data = data
        self.insn_bytes = insn_bytes

    def __str__(self) -> str:
        text = _SUBERRORS.get(self.suberror, f"suberror {self.suberror}")
        return f"{text}: {self.insn_bytes.hex(' ')}" if self.insn_bytes else text


class FailEntry(ExitBase):
    """The processor refused to enter the guest: `reason` is the hardware's."""

    __slots__ = ("cpu", "reason")
    __match_args__ = ("reason", "cpu")

    def __init__(self, reason: int, cpu: int) -> None:
        self.reason = reason
        self.cpu = cpu

    def __str__(self) -> str:
        known = "the guest's state is not a processor's" if self.reason == _SVM_INVALID else ""
        known = known or _VMX_ENTRY_FAILURES.get(self.reason, "the processor refused the guest")
        return f"{known}: reason {self.reason:#x} on processor {self.cpu}"


class GuestException(ExitBase):
    """The guest's exception comes to the VMM, which no KVM does any more."""

    __slots__ = ("error_code", "exception")
    __match_args__ = ("exception", "error_code")

    def __init__(self, exception: int, error_code: int) -> None:
        self.exception = exception
        self.error_code = error_code


class MemoryFault(ExitBase):
    """The guest accessed memory that KVM cannot resolve: `size` bytes at `gpa`."""

    __slots__ = ("flags", "gpa", "size")
    __match_args__ = ("flags", "gpa", "size")

    def __init__(self, flags: int, gpa: int, size: int) -> None:
        self.flags = flags
        self.gpa = gpa
        self.size = size

    @property
    def is_private(self) -> bool:
        """Whether the guest wanted its private memory, else it wanted the shared."""
        return bool(self.flags & lib.KVM_MEMORY_EXIT_FLAG_PRIVATE)


class Debug(ExitBase):
    """A breakpoint or single step that `set_guest_debug()` asked for, on x86."""

    __slots__ = ("dr6", "dr7", "exception", "pc")
    __match_args__ = ("exception", "pc", "dr6", "dr7")

    def __init__(self, exception: int, pc: int, dr6: int, dr7: int) -> None:
        self.exception = exception
        self.pc = pc
        self.dr6 = dr6
        self.dr7 = dr7


class ArmDebug(ExitBase):
    """The same on arm64: `hsr` is the syndrome (ESR_EL2), `far` the address of a watchpoint."""

    __slots__ = ("far", "hsr")
    __match_args__ = ("hsr", "far")

    def __init__(self, hsr: int, far: int) -> None:
        self.hsr = hsr
        self.far = far
