"""Interfaces of other hypervisors, exits of other architectures, and what nobody knows."""

from __future__ import annotations

import struct
from typing import TypeVar

from kvm_ioctls._arguments import word
from kvm_ioctls._ffi import ffi
from kvm_ioctls._struct import ZERO
from kvm_ioctls.exits._base import ExitBase
from kvm_ioctls.exits._lent import LentStruct

_SBI_RET = ffi.offsetof("kvm_run_riscv_sbi", "ret")
_CSR_RET = ffi.offsetof("kvm_run_riscv_csr", "ret_value")

Record = TypeVar("Record", bound=LentStruct)


class HypervSynic(LentStruct, ctype="kvm_hyperv_exit_synic"):
    """KVM_EXIT_HYPERV_SYNIC: the guest set up its synthetic interrupt controller."""

    msr: int = 0
    control: int = 0
    evt_page: int = 0
    msg_page: int = 0


class HypervHcall(LentStruct, ctype="kvm_hyperv_exit_hcall"):
    """KVM_EXIT_HYPERV_HCALL: set `result`."""

    input: int = 0
    result: int = 0
    params: tuple[int, ...] = ZERO


class HypervSyndbg(LentStruct, ctype="kvm_hyperv_exit_syndbg"):
    """KVM_EXIT_HYPERV_SYNDBG: the guest's debugger; set `status`."""

    msr: int = 0
    control: int = 0
    status: int = 0
    send_page: int = 0
    recv_page: int = 0
    pending_page: int = 0


class _HypervRecord(LentStruct, ctype="kvm_hyperv_exit_u"):
    synic: HypervSynic = ZERO
    hcall: HypervHcall = ZERO
    syndbg: HypervSyndbg = ZERO


class HypervRecord(LentStruct, ctype="struct kvm_hyperv_exit"):
    """What the guest wants of Hyper-V: `u.synic`, `u.hcall` or `u.syndbg`, as `type` says."""

    type: int = 0
    u: _HypervRecord = ZERO


class XenHcall(LentStruct, ctype="kvm_xen_exit_hcall"):
    """KVM_EXIT_XEN_HCALL: set `result`."""

    longmode: int = 0
    cpl: int = 0
    input: int = 0
    result: int = 0
    params: tuple[int, ...] = ZERO


class _XenRecord(LentStruct, ctype="kvm_xen_exit_u"):
    hcall: XenHcall = ZERO


class XenRecord(LentStruct, ctype="struct kvm_xen_exit"):
    """What the guest wants of Xen: `u.hcall`."""

    type: int = 0
    u: _XenRecord = ZERO


def _not_over(record: Record) -> Record:
    """The record of an exit; ValueError once the next one has taken it back."""
    record.raw.release()  # of no use but to see that it is there
    return record


class Hyperv(ExitBase):
    """The guest wants something of Hyper-V: `record` is a view, for the answer too."""

    __slots__ = ("_record",)
    __match_args__ = ("record",)

    def __init__(self, record: HypervRecord) -> None:
        self._record = record

    @property
    def record(self) -> HypervRecord:
        """What it wants; the answer goes there."""
        return _not_over(self._record)


class Xen(ExitBase):
    """The guest wants something of Xen: `record` is a view, for the answer too."""

    __slots__ = ("_record",)
    __match_args__ = ("record",)

    def __init__(self, record: XenRecord) -> None:
        self._record = record

    @property
    def record(self) -> XenRecord:
        """What it wants; the answer goes there."""
        return _not_over(self._record)


class ArmNisv(ExitBase):
    """arm64: an access that KVM cannot decode, with its syndrome and address."""

    __slots__ = ("esr_iss", "fault_ipa")
    __match_args__ = ("esr_iss", "fault_ipa")

    def __init__(self, esr_iss: int, fault_ipa: int) -> None:
        self.esr_iss = esr_iss
        self.fault_ipa = fault_ipa


class RiscvSbi(ExitBase):
    """riscv64: a call of the supervisor binary interface: set `ret`, an error and a value."""

    __slots__ = ("_record", "args", "extension_id", "function_id")
    __match_args__ = ("extension_id", "function_id", "args")

    def __init__(
        self, extension_id: int, function_id: int, args: tuple[int, ...], record: memoryview
    ) -> None:
        self.extension_id = extension_id
        self.function_id = function_id
        self.args = args
        self._record = record

    @property
    def ret(self) -> tuple[int, int]:
        """What the guest gets back in a0 and a1."""
        error, value = struct.unpack("=QQ", self._record[_SBI_RET : _SBI_RET + 16])
        return error, value

    @ret.setter
    def ret(self, values: tuple[int, int]) -> None:
        error, value = values
        words = word("the error", error, 64), word("the value", value, 64)
        self._record[_SBI_RET : _SBI_RET + 16] = struct.pack("=QQ", *words)


class RiscvCsr(ExitBase):
    """riscv64: an access to a control register: set `ret_value`."""

    __slots__ = ("_record", "csr_num", "new_value", "write_mask")
    __match_args__ = ("csr_num", "new_value", "write_mask")

    def __init__(self, csr_num: int, new_value: int, write_mask: int, record: memoryview) -> None:
        self.csr_num = csr_num
        self.new_value = new_value
        self.write_mask = write_mask
        self._record = record

    @property
    def ret_value(self) -> int:
        """What the register was."""
        return int.from_bytes(self._record[_CSR_RET : _CSR_RET + 8], "little")

    @ret_value.setter
    def ret_value(self, value: int) -> None:
        packed = word("ret_value", value, 64).to_bytes(8, "little")
        self._record[_CSR_RET : _CSR_RET + 8] = packed


class Raw(ExitBase):
    """An exit that the header names and this package does not take apart.

    Those of s390 and PowerPC, which it does not run on, and Intel TDX's requests.

    Attributes:
        name: the header's, without its beginning.
        reason: its number.
        payload: the exit's record, a view.
    """

    __slots__ = ("name", "payload", "reason")
    __match_args__ = ("name",)

    def __init__(self, name: str, reason: int, payload: memoryview) -> None:
        self.name = name
        self.reason = reason
        self.payload = payload


class Unknown(ExitBase):
    """An exit that no header knew yet, or KVM_EXIT_UNKNOWN (0); `payload` is its record."""

    __slots__ = ("payload", "reason")
    __match_args__ = ("reason",)

    def __init__(self, reason: int, payload: memoryview) -> None:
        self.reason = reason
        self.payload = payload

    @property
    def hardware_exit_reason(self) -> int:
        """Of KVM_EXIT_UNKNOWN: what the processor said."""
        return int.from_bytes(self.payload[:8], "little")
