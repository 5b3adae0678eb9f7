r"""Why a vCPU stopped.

One small class per reason, made for `match`::

    match vcpu.run():
        case IoOut(port=0x3F8, data=data):
            console.write(data)
        case IoIn(data=data):
            data[:] = b"\xff" * len(data)
        case Hlt():
            break

Each vCPU has one object per kind and uses it again: an exit, and the view in its `data`, are valid
until the next `run()`.  Where a guest waits for an answer (`IoIn`, `MmioRead`, `X86Rdmsr`,
`Hypercall`), write it into the exit before the next `run()`.

Source: Documentation/virt/kvm/api.rst, section 5, "The kvm_run structure".
"""

from __future__ import annotations

from typing import TypeAlias

from kvm_ioctls._ffi import ffi, lib

_MSR = ffi.offsetof("struct kvm_run", "msr")
_MSR_ERROR = _MSR + ffi.offsetof("kvm_run_msr", "error")
_MSR_DATA = _MSR + ffi.offsetof("kvm_run_msr", "data")
_RET = ffi.offsetof("struct kvm_run", "hypercall") + ffi.offsetof("kvm_run_hypercall", "ret")

_SUBERRORS = {
    lib.KVM_INTERNAL_ERROR_EMULATION: "KVM cannot emulate the instruction",
    lib.KVM_INTERNAL_ERROR_SIMUL_EX: "several exceptions at once",
    lib.KVM_INTERNAL_ERROR_DELIVERY_EV: "an unexpected exit while an event was delivered",
    lib.KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: "an exit that KVM does not know",
}


class _Exit:
    """Compares and prints by `__match_args__`."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]  # reused by the next run()

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Exit) or type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __repr__(self) -> str:
        shown = zip(self.__match_args__, map(_show, self._values()), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown)})"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return hex(value)
    return repr(value.tobytes() if isinstance(value, memoryview) else value)


class _Io(_Exit):
    __slots__ = ("count", "data", "port", "size")
    __match_args__ = ("port", "size", "count", "data")

    def __init__(self, port: int, size: int, count: int, data: memoryview) -> None:
        self.port = port
        self.size = size
        self.count = count
        self.data = data


class IoIn(_Io):
    """The guest reads an I/O port: `count` elements of `size` bytes go into `data`."""

    __slots__ = ()


class IoOut(_Io):
    """The guest writes to an I/O port: `data` holds `count` elements of `size` bytes."""

    __slots__ = ()


class _Mmio(_Exit):
    __slots__ = ("address", "data")
    __match_args__ = ("address", "data")

    def __init__(self, address: int, data: memoryview) -> None:
        self.address = address
        self.data = data


class MmioRead(_Mmio):
    """The guest reads guest physical `address` where no memory is: fill `data` (1 to 8 bytes)."""

    __slots__ = ()


class MmioWrite(_Mmio):
    """The guest writes `data` (1 to 8 bytes) to `address`, where no writable memory is."""

    __slots__ = ()


class Hlt(_Exit):
    """The guest executed HLT, and no in-kernel interrupt controller waits for its wake-up."""

    __slots__ = ()


class Shutdown(_Exit):
    """The guest's processor shut down: a triple fault."""

    __slots__ = ()


class Interrupted(_Exit):
    """A signal, a kick or `immediate_exit` ended run(); nothing is wrong, run again."""

    __slots__ = ()


class IrqWindowOpen(_Exit):
    """The guest can take an interrupt, as `request_interrupt_window` asked."""

    __slots__ = ()


class Nmi(_Exit):
    """KVM_EXIT_NMI."""

    __slots__ = ()


class SetTpr(_Exit):
    """The guest changed its task priority: see `RunPage.cr8`."""

    __slots__ = ()


class DirtyRingFull(_Exit):
    """The vCPU's ring of dirty pages is full: harvest it."""

    __slots__ = ()


class ApResetHold(_Exit):
    """An SEV-ES guest's processor waits for its start."""

    __slots__ = ()


class X86BusLock(_Exit):
    """The guest locked the bus across a cache line."""

    __slots__ = ()


class InternalError(_Exit):
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


class FailEntry(_Exit):
    """The processor refused to enter the guest: `reason` is the hardware's."""

    __slots__ = ("cpu", "reason")
    __match_args__ = ("reason", "cpu")

    def __init__(self, reason: int, cpu: int) -> None:
        self.reason = reason
        self.cpu = cpu


class Debug(_Exit):
    """A breakpoint or single step that `set_guest_debug()` asked for."""

    __slots__ = ("dr6", "dr7", "exception", "pc")
    __match_args__ = ("exception", "pc", "dr6", "dr7")

    def __init__(self, exception: int, pc: int, dr6: int, dr7: int) -> None:
        self.exception = exception
        self.pc = pc
        self.dr6 = dr6
        self.dr7 = dr7


class SystemEvent(_Exit):
    """The guest asks for shutdown, reset and the like: KVM_SYSTEM_EVENT_*."""

    __slots__ = ("data", "type")
    __match_args__ = ("type", "data")

    def __init__(self, type: int, data: tuple[int, ...]) -> None:  # noqa: A002 - the kernel's name
        self.type = type
        self.data = data


class IoapicEoi(_Exit):
    """The guest ended a level-triggered interrupt of a userspace IOAPIC."""

    __slots__ = ("vector",)
    __match_args__ = ("vector",)

    def __init__(self, vector: int) -> None:
        self.vector = vector


class TprAccess(_Exit):
    """The guest accessed its task priority register at `rip`."""

    __slots__ = ("is_write", "rip")
    __match_args__ = ("rip", "is_write")

    def __init__(self, rip: int, is_write: bool) -> None:
        self.rip = rip
        self.is_write = is_write


class Notify(_Exit):
    """The guest held the processor without a window for events for too long."""

    __slots__ = ("flags",)
    __match_args__ = ("flags",)

    def __init__(self, flags: int) -> None:
        self.flags = flags


class MemoryFault(_Exit):
    """The guest accessed memory that KVM cannot resolve: `size` bytes at `gpa`."""

    __slots__ = ("flags", "gpa", "size")
    __match_args__ = ("flags", "gpa", "size")

    def __init__(self, flags: int, gpa: int, size: int) -> None:
        self.flags = flags
        self.gpa = gpa
        self.size = size


class _Msr(_Exit):
    """An access to a model-specific register that KVM left to us."""

    __slots__ = ("_page", "index", "reason")
    __match_args__ = ("reason", "index")

    def __init__(self, reason: int, index: int, page: memoryview) -> None:
        self.reason = reason
        self.index = index
        self._page = page

    @property
    def data(self) -> int:
        """The register's value: read it (WRMSR) or set it (RDMSR)."""
        return int.from_bytes(self._page[_MSR_DATA : _MSR_DATA + 8], "little")

    @data.setter
    def data(self, value: int) -> None:
        self._page[_MSR_DATA : _MSR_DATA + 8] = value.to_bytes(8, "little")

    @property
    def error(self) -> bool:
        """Set it to give the guest a #GP."""
        return bool(self._page[_MSR_ERROR])

    @error.setter
    def error(self, value: bool) -> None:
        self._page[_MSR_ERROR] = bool(value)


class X86Rdmsr(_Msr):
    """The guest reads an MSR: set `data`, or `error`."""

    __slots__ = ()


class X86Wrmsr(_Msr):
    """The guest writes `data` to an MSR; set `error` to refuse it."""

    __slots__ = ()
    __match_args__ = ("reason", "index", "data")


class Hypercall(_Exit):
    """The guest made hypercall `nr`: set `ret`."""

    __slots__ = ("_page", "args", "longmode", "nr")
    __match_args__ = ("nr", "args", "longmode")

    def __init__(self, nr: int, args: tuple[int, ...], longmode: bool, page: memoryview) -> None:
        self.nr = nr
        self.args = args
        self.longmode = longmode
        self._page = page

    @property
    def ret(self) -> int:
        """What the guest gets back in RAX."""
        return int.from_bytes(self._page[_RET : _RET + 8], "little")

    @ret.setter
    def ret(self, value: int) -> None:
        self._page[_RET : _RET + 8] = value.to_bytes(8, "little")


class Unknown(_Exit):
    """An exit that this package does not decode; `payload` is the exit's record as it is."""

    __slots__ = ("payload", "reason")
    __match_args__ = ("reason",)

    def __init__(self, reason: int, payload: memoryview) -> None:
        self.reason = reason
        self.payload = payload


Exit: TypeAlias = (
    IoIn
    | IoOut
    | MmioRead
    | MmioWrite
    | Hlt
    | Shutdown
    | Interrupted
    | InternalError
    | FailEntry
    | SystemEvent
    | IrqWindowOpen
    | IoapicEoi
    | X86Rdmsr
    | X86Wrmsr
    | Hypercall
    | MemoryFault
    | Debug
    | Nmi
    | SetTpr
    | TprAccess
    | DirtyRingFull
    | ApResetHold
    | X86BusLock
    | Notify
    | Unknown
)
