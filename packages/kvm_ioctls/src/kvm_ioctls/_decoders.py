"""Exits from their records: everything but the accesses that C decodes.

Each decoder takes the record, the union of `struct kvm_run`, and may keep the view: it is taken
back when the exit expires.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kvm_ioctls import exits
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.exits.foreign import HypervRecord, XenRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm_ioctls.exits import Exit

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_INSN_BYTES = ffi.offsetof("kvm_run_emulation_failure", "insn_bytes")


def _reader(ctype: str, *names: str) -> struct.Struct:
    """Reads the members `names`, in the order of their places, of a record of type `ctype`."""
    members = dict(ffi.typeof(ctype).fields)
    code, end = "=", 0
    for name in names:
        start, kind = members[name].offset, members[name].type
        count = kind.length if kind.kind == "array" else 1
        item = _CODES[ffi.sizeof(kind) // count]
        code += f"{start - end}x{count if count > 1 else ''}{item}"
        end = start + ffi.sizeof(kind)
    return struct.Struct(code)


_INTERNAL = _reader("kvm_run_internal", "suberror", "ndata", "data")
_EMULATION = _reader("kvm_run_emulation_failure", "flags", "insn_size")
_SYSTEM_EVENT = _reader("kvm_run_system_event", "type", "ndata", "data")
_TPR_ACCESS = _reader("kvm_run_tpr_access", "rip", "is_write")
_MSR = _reader("kvm_run_msr", "reason", "index")
_HYPERCALL = _reader("kvm_run_hypercall", "nr", "args", "ret", "longmode")
_SBI = _reader("kvm_run_riscv_sbi", "extension_id", "function_id", "args")
_CSR = _reader("kvm_run_riscv_csr", "csr_num", "new_value", "write_mask")


def _internal_error(record: memoryview) -> Exit:
    suberror, ndata, *data = _INTERNAL.unpack_from(record)
    insn_bytes = b""
    if suberror == lib.KVM_INTERNAL_ERROR_EMULATION and ndata >= 1:
        flags, size = _EMULATION.unpack_from(record)
        if flags & lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES:
            insn_bytes = bytes(record[_INSN_BYTES : _INSN_BYTES + min(size, 15)])
    return exits.InternalError(suberror, tuple(data[:ndata]), insn_bytes)


def _system_event(record: memoryview) -> Exit:
    type_, ndata, *data = _SYSTEM_EVENT.unpack_from(record)
    return exits.SystemEvent(type_, tuple(data[:ndata]))


def _tpr_access(record: memoryview) -> Exit:
    rip, is_write = _TPR_ACCESS.unpack_from(record)
    return exits.TprAccess(rip, bool(is_write))


def _hypercall(record: memoryview) -> Exit:
    nr, *args, _, longmode = _HYPERCALL.unpack_from(record)
    return exits.Hypercall(nr, tuple(args), bool(longmode), record)


def _riscv_sbi(record: memoryview) -> Exit:
    extension_id, function_id, *args = _SBI.unpack_from(record)
    return exits.RiscvSbi(extension_id, function_id, tuple(args), record)


def _riscv_csr(record: memoryview) -> Exit:
    csr_num, new_value, write_mask = _CSR.unpack_from(record)
    return exits.RiscvCsr(csr_num, new_value, write_mask, record)


def _msr(kind: type[exits.X86Rdmsr | exits.X86Wrmsr]) -> Callable[[memoryview], Exit]:
    """The decoder of an access to a model-specific register."""

    def decode(record: memoryview) -> Exit:
        reason, index = _MSR.unpack_from(record)
        return kind(reason, index, record)

    return decode


def _members(kind: Callable[..., Exit], ctype: str, *names: str) -> Callable[[memoryview], Exit]:
    """The decoder of an exit that is made of the members `names`."""
    unpack = _reader(ctype, *names).unpack_from
    return lambda record: kind(*unpack(record))


def _always(exit_: Exit) -> Callable[[memoryview], Exit]:
    """The decoder of an exit that carries nothing."""
    return lambda _: exit_


def _raw(name: str) -> Callable[[memoryview], Exit]:
    """The decoder of an exit that we only name."""
    reason = getattr(lib, f"KVM_EXIT_{name}")
    return lambda record: exits.Raw(name, reason, record)


def _debug() -> Callable[[memoryview], Exit]:
    """The decoder of what each architecture tells about breakpoints in its own way."""
    ctype = "struct kvm_debug_exit_arch"
    members = dict(ffi.typeof(ctype).fields)
    if "dr7" in members:
        return _members(exits.Debug, ctype, "exception", "pc", "dr6", "dr7")
    if "far" in members:
        return _members(exits.ArmDebug, ctype, "hsr", "far")
    return _raw("DEBUG")


_BARE: dict[str, Exit] = {
    "HLT": exits.Hlt(),
    "SHUTDOWN": exits.Shutdown(),
    "IRQ_WINDOW_OPEN": exits.IrqWindowOpen(),
    "INTR": exits.Interrupted(),
    "NMI": exits.Nmi(),
    "SET_TPR": exits.SetTpr(),
    "WATCHDOG": exits.Watchdog(),
    "DIRTY_RING_FULL": exits.DirtyRingFull(),
    "AP_RESET_HOLD": exits.ApResetHold(),
    "X86_BUS_LOCK": exits.X86BusLock(),
}
_RAW = (
    "S390_SIEIC", "S390_RESET", "S390_UCONTROL", "S390_TSCH", "S390_STSI",
    "DCR", "OSI", "PAPR_HCALL", "EPR", "LOONGARCH_IOCSR", "TDX", "ARM_SEA",
)  # fmt: skip

DECODERS: dict[int, Callable[[memoryview], Exit]] = {
    **{getattr(lib, f"KVM_EXIT_{name}"): _always(exit_) for name, exit_ in _BARE.items()},
    **{getattr(lib, f"KVM_EXIT_{name}"): _raw(name) for name in _RAW},
    lib.KVM_EXIT_EXCEPTION: _members(exits.GuestException, "kvm_run_ex", "exception", "error_code"),
    lib.KVM_EXIT_INTERNAL_ERROR: _internal_error,
    lib.KVM_EXIT_FAIL_ENTRY: _members(
        exits.FailEntry, "kvm_run_fail_entry", "hardware_entry_failure_reason", "cpu"
    ),
    lib.KVM_EXIT_DEBUG: _debug(),
    lib.KVM_EXIT_SYSTEM_EVENT: _system_event,
    lib.KVM_EXIT_IOAPIC_EOI: _members(exits.IoapicEoi, "kvm_run_eoi", "vector"),
    lib.KVM_EXIT_TPR_ACCESS: _tpr_access,
    lib.KVM_EXIT_X86_RDMSR: _msr(exits.X86Rdmsr),
    lib.KVM_EXIT_X86_WRMSR: _msr(exits.X86Wrmsr),
    lib.KVM_EXIT_HYPERCALL: _hypercall,
    lib.KVM_EXIT_NOTIFY: _members(exits.Notify, "kvm_run_notify", "flags"),
    lib.KVM_EXIT_MEMORY_FAULT: _members(
        exits.MemoryFault, "struct kvm_ioctls_memory_fault", "flags", "gpa", "size"
    ),
    lib.KVM_EXIT_HYPERV: lambda record: exits.Hyperv(HypervRecord.lent(record)),
    lib.KVM_EXIT_XEN: lambda record: exits.Xen(XenRecord.lent(record)),
    lib.KVM_EXIT_ARM_NISV: _members(exits.ArmNisv, "kvm_run_arm_nisv", "esr_iss", "fault_ipa"),
    lib.KVM_EXIT_RISCV_SBI: _riscv_sbi,
    lib.KVM_EXIT_RISCV_CSR: _riscv_csr,
}
"""By reason."""
