"""The page through which the kernel and a VMM talk about a running vCPU.

`RunPage` decodes a `struct kvm_run` in any writable buffer: the mapping of a vCPU's file
descriptor, or the buffer of a hypervisor in user space that speaks the same language.

Source: Documentation/virt/kvm/api.rst, section 5, "The kvm_run structure".
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import TYPE_CHECKING, TypeAlias

from kvm_ioctls import exits
from kvm_ioctls._ffi import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_ioctls.exits import Exit

WritableBuffer: TypeAlias = bytearray | memoryview | mmap
"""Anything writable and C-contiguous that speaks the buffer protocol."""

_RUN = dict(ffi.typeof("struct kvm_run").fields)
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _record(part: str, *names: str, ctype: str = "") -> struct.Struct:
    """Reads the members `names`, in the order of their places, of a record in `struct kvm_run`."""
    members = dict(ffi.typeof(ctype or f"kvm_run_{part}").fields)
    code, end = "=", 0
    for name in names:
        start, kind = _RUN[part].offset + members[name].offset, members[name].type
        count = kind.length if kind.kind == "array" else 1
        item = _CODES[ffi.sizeof(kind) // count]
        code += f"{start - end}x{count if count > 1 else ''}{item}"
        end = start + ffi.sizeof(kind)
    return struct.Struct(code)


SIZE = ffi.sizeof("struct kvm_run")
_REASON = _RUN["exit_reason"].offset
_PAYLOAD = _RUN["hw"].offset
_PAYLOAD_END = _RUN["kvm_valid_regs"].offset  # what follows the union of all records
_IMMEDIATE_EXIT = _RUN["immediate_exit"].offset
_MMIO_DATA = _RUN["mmio"].offset + ffi.offsetof("kvm_run_mmio", "data")
_INSN_BYTES = _RUN["emulation_failure"].offset + ffi.offsetof(
    "kvm_run_emulation_failure", "insn_bytes"
)
_IO_PLACE = slice(_RUN["io"].offset, _RUN["io"].offset + ffi.sizeof("kvm_run_io"))
_IO_EXITS = 256  # how many different port accesses are remembered
_CR8 = struct.Struct(f"={_RUN['cr8'].offset}xQ")
_APIC_BASE = struct.Struct(f"={_RUN['apic_base'].offset}xQ")

_IO = _record("io", "direction", "size", "port", "count", "data_offset")
_MMIO = _record("mmio", "phys_addr", "len", "is_write")
_INTERNAL = _record("internal", "suberror", "ndata", "data")
_EMULATION = _record("emulation_failure", "flags", "insn_size")
_FAIL_ENTRY = _record("fail_entry", "hardware_entry_failure_reason", "cpu")
_DEBUG = _record("debug", "exception", "pc", "dr6", "dr7", ctype="struct kvm_debug_exit_arch")
_SYSTEM_EVENT = _record("system_event", "type", "ndata", "data")
_EOI = _record("eoi", "vector")
_TPR_ACCESS = _record("tpr_access", "rip", "is_write")
_MSR = _record("msr", "reason", "index")
_HYPERCALL = _record("hypercall", "nr", "args", "ret", "longmode")
_NOTIFY = _record("notify", "flags")
_MEMORY_FAULT = _record("hw", "flags", "gpa", "size", ctype="struct kvm_ioctls_memory_fault")


class RunPage:
    """Decodes the `struct kvm_run` at the beginning of `buffer`.

    The exit objects belong to the page and are used again by the next `decode()`.

    Args:
        buffer: writable, at least as long as `struct kvm_run`, and long enough to hold the data of
            port I/O at `io.data_offset`.
    """

    def __init__(self, buffer: WritableBuffer) -> None:
        raw = memoryview(buffer).cast("B")
        if raw.readonly or len(raw) < SIZE:
            raise ValueError(f"a run page is writable and at least {SIZE} bytes")
        self.raw = raw
        self._words = raw[: SIZE // 4 * 4].cast("I")
        self._io_record = raw[_IO_PLACE]
        self._io_exits: dict[bytes, exits.IoIn | exits.IoOut] = {}
        self._mmio_views = [raw[_MMIO_DATA : _MMIO_DATA + n] for n in range(9)]
        self._mmio_read = exits.MmioRead(0, self._mmio_views[0])
        self._mmio_write = exits.MmioWrite(0, self._mmio_views[0])
        self._rdmsr = exits.X86Rdmsr(0, 0, raw)
        self._wrmsr = exits.X86Wrmsr(0, 0, raw)
        self._interrupted = exits.Interrupted()
        self._decoders = self._make_decoders()

    def release(self) -> None:
        """Lets go of the buffer; the page and its exits are of no use afterwards."""
        views = [self._words, self._io_record, *self._mmio_views, self.raw]
        for view in views + [exit_.data for exit_ in self._io_exits.values()]:
            view.release()
        self._io_exits.clear()
        self._decoders.clear()  # they refer to the page: a cycle

    def decode(self) -> Exit:
        """The exit that the page tells of."""
        decoder = self._decoders.get(self._words[_REASON // 4])
        return decoder() if decoder is not None else self._unknown()

    def interrupted(self) -> Exit:
        """The exit for a run that a signal ended, which leaves no reason in the page."""
        return self._interrupted

    @property
    def exit_reason(self) -> int:
        """The number of the exit: KVM_EXIT_*."""
        return self._words[_REASON // 4]

    @property
    def immediate_exit(self) -> bool:
        """Makes the next run() return `Interrupted` before it enters the guest."""
        return self.raw[_IMMEDIATE_EXIT] != 0

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.raw[_IMMEDIATE_EXIT] = bool(value)

    @property
    def request_interrupt_window(self) -> bool:
        """Makes run() return `IrqWindowOpen` as soon as the guest can take an interrupt."""
        return self.raw[0] != 0

    @request_interrupt_window.setter
    def request_interrupt_window(self, value: bool) -> None:
        self.raw[0] = bool(value)

    @property
    def ready_for_interrupt_injection(self) -> bool:
        """Whether `interrupt()` would reach the guest now."""
        return self.raw[_RUN["ready_for_interrupt_injection"].offset] != 0

    @property
    def if_flag(self) -> bool:
        """The guest's RFLAGS.IF."""
        return self.raw[_RUN["if_flag"].offset] != 0

    @property
    def cr8(self) -> int:
        """The guest's task priority; written back at the next run without an irqchip."""
        value: int = _CR8.unpack_from(self.raw)[0]
        return value

    @cr8.setter
    def cr8(self, value: int) -> None:
        self.raw[_RUN["cr8"].offset : _RUN["cr8"].offset + 8] = value.to_bytes(8, "little")

    @property
    def apic_base(self) -> int:
        """The guest's APIC base register."""
        value: int = _APIC_BASE.unpack_from(self.raw)[0]
        return value

    # ------------------------------------------------------------------------------- decoders

    def _make_decoders(self) -> dict[int, Callable[[], Exit]]:
        """One function per reason; the exits that carry nothing are always the same object."""
        bare: dict[int, Exit] = {
            lib.KVM_EXIT_HLT: exits.Hlt(),
            lib.KVM_EXIT_SHUTDOWN: exits.Shutdown(),
            lib.KVM_EXIT_IRQ_WINDOW_OPEN: exits.IrqWindowOpen(),
            lib.KVM_EXIT_INTR: self._interrupted,
            lib.KVM_EXIT_NMI: exits.Nmi(),
            lib.KVM_EXIT_SET_TPR: exits.SetTpr(),
            lib.KVM_EXIT_DIRTY_RING_FULL: exits.DirtyRingFull(),
            lib.KVM_EXIT_AP_RESET_HOLD: exits.ApResetHold(),
            lib.KVM_EXIT_X86_BUS_LOCK: exits.X86BusLock(),
        }
        decoders: dict[int, Callable[[], Exit]] = {
            reason: _always(exit_) for reason, exit_ in bare.items()
        }
        return decoders | {
            lib.KVM_EXIT_IO: self._io,
            lib.KVM_EXIT_MMIO: self._mmio,
            lib.KVM_EXIT_INTERNAL_ERROR: self._internal_error,
            lib.KVM_EXIT_FAIL_ENTRY: lambda: exits.FailEntry(*_FAIL_ENTRY.unpack_from(self.raw)),
            lib.KVM_EXIT_DEBUG: lambda: exits.Debug(*_DEBUG.unpack_from(self.raw)),
            lib.KVM_EXIT_SYSTEM_EVENT: self._system_event,
            lib.KVM_EXIT_IOAPIC_EOI: lambda: exits.IoapicEoi(*_EOI.unpack_from(self.raw)),
            lib.KVM_EXIT_TPR_ACCESS: self._tpr_access,
            lib.KVM_EXIT_X86_RDMSR: lambda: self._msr(self._rdmsr),
            lib.KVM_EXIT_X86_WRMSR: lambda: self._msr(self._wrmsr),
            lib.KVM_EXIT_HYPERCALL: self._hypercall,
            lib.KVM_EXIT_NOTIFY: lambda: exits.Notify(*_NOTIFY.unpack_from(self.raw)),
            lib.KVM_EXIT_MEMORY_FAULT: self._memory_fault,
        }

    def _io(self) -> Exit:
        # A guest uses few ports in few ways: the record itself is the key to a finished exit.
        record = self._io_record.tobytes()
        return self._io_exits.get(record) or self._new_io(record)

    def _new_io(self, record: bytes) -> Exit:
        direction, size, port, count, offset = _IO.unpack_from(self.raw)
        kind = exits.IoOut if direction else exits.IoIn
        exit_ = kind(port, size, count, self.raw[offset : offset + size * count])
        if len(self._io_exits) < _IO_EXITS:
            self._io_exits[record] = exit_
        return exit_

    def _mmio(self) -> Exit:
        address, length, is_write = _MMIO.unpack_from(self.raw)
        exit_ = self._mmio_write if is_write else self._mmio_read
        exit_.address = address
        exit_.data = self._mmio_views[length]
        return exit_

    def _internal_error(self) -> Exit:
        suberror, ndata, *data = _INTERNAL.unpack_from(self.raw)
        insn_bytes = b""
        if suberror == lib.KVM_INTERNAL_ERROR_EMULATION and ndata >= 1:
            flags, size = _EMULATION.unpack_from(self.raw)
            if flags & lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES:
                insn_bytes = bytes(self.raw[_INSN_BYTES : _INSN_BYTES + min(size, 15)])
        return exits.InternalError(suberror, tuple(data[:ndata]), insn_bytes)

    def _system_event(self) -> Exit:
        type_, ndata, *data = _SYSTEM_EVENT.unpack_from(self.raw)
        return exits.SystemEvent(type_, tuple(data[:ndata]))

    def _tpr_access(self) -> Exit:
        rip, is_write = _TPR_ACCESS.unpack_from(self.raw)
        return exits.TprAccess(rip, bool(is_write))

    def _msr(self, exit_: exits.X86Rdmsr | exits.X86Wrmsr) -> Exit:
        exit_.reason, exit_.index = _MSR.unpack_from(self.raw)
        return exit_

    def _hypercall(self) -> Exit:
        nr, *args, _, longmode = _HYPERCALL.unpack_from(self.raw)
        return exits.Hypercall(nr, tuple(args), bool(longmode), self.raw)

    def _memory_fault(self) -> Exit:
        return exits.MemoryFault(*_MEMORY_FAULT.unpack_from(self.raw))

    def _unknown(self) -> Exit:
        return exits.Unknown(self.exit_reason, self.raw[_PAYLOAD:_PAYLOAD_END])


def _always(exit_: Exit) -> Callable[[], Exit]:
    return lambda: exit_
