"""The guest waits for an answer other than data: registers and hypercalls."""

from __future__ import annotations

from kvm_ioctls._arguments import word
from kvm_ioctls._ffi import ffi
from kvm_ioctls.exits._base import ExitBase

_MSR_ERROR = ffi.offsetof("kvm_run_msr", "error")
_MSR_DATA = ffi.offsetof("kvm_run_msr", "data")
_RET = ffi.offsetof("kvm_run_hypercall", "ret")


class _Msr(ExitBase):
    """An access to a model-specific register that KVM left to us."""

    __slots__ = ("_record", "index", "reason")
    __match_args__ = ("reason", "index")

    def __init__(self, reason: int, index: int, record: memoryview) -> None:
        self.reason = reason
        self.index = index
        self._record = record

    @property
    def data(self) -> int:
        """The register's value: read it (WRMSR) or set it (RDMSR)."""
        return int.from_bytes(self._record[_MSR_DATA : _MSR_DATA + 8], "little")

    @data.setter
    def data(self, value: int) -> None:
        self._record[_MSR_DATA : _MSR_DATA + 8] = word("data", value, 64).to_bytes(8, "little")

    @property
    def error(self) -> bool:
        """Set it to give the guest a #GP."""
        return bool(self._record[_MSR_ERROR])

    @error.setter
    def error(self, value: bool) -> None:
        self._record[_MSR_ERROR] = bool(value)


class X86Rdmsr(_Msr):
    """The guest reads an MSR: set `data`, or `error`."""

    __slots__ = ()


class X86Wrmsr(_Msr):
    """The guest writes `data` to an MSR; set `error` to refuse it."""

    __slots__ = ()
    __match_args__ = ("reason", "index", "data")


class Hypercall(ExitBase):
    """The guest made hypercall `nr`: set `ret`."""

    __slots__ = ("_record", "args", "longmode", "nr")
    __match_args__ = ("nr", "args", "longmode")

    def __init__(self, nr: int, args: tuple[int, ...], longmode: bool, record: memoryview) -> None:
        self.nr = nr
        self.args = args
        self.longmode = longmode
        self._record = record

    @property
    def ret(self) -> int:
        """What the guest gets back in RAX; set it to a negative errno, or to any 64 bits."""
        return int.from_bytes(self._record[_RET : _RET + 8], "little")

    @ret.setter
    def ret(self, value: int) -> None:
        self._record[_RET : _RET + 8] = word("ret", value, 64).to_bytes(8, "little")
