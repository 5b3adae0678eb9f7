"""Registers in the run page: without a system call each.

Source: Documentation/virt/kvm/api.rst, section 6.4, KVM_CAP_SYNC_REGS.
"""

from __future__ import annotations

from enum import IntFlag

from kvm_ioctls._arguments import unsigned
from kvm_ioctls._ffi import ffi
from kvm_ioctls.structs import Regs, Sregs, VcpuEvents

_VALID = ffi.offsetof("struct kvm_run", "kvm_valid_regs")
_DIRTY = ffi.offsetof("struct kvm_run", "kvm_dirty_regs")
_SHARED = ffi.offsetof("struct kvm_run", "s")


class SyncReg(IntFlag):
    """Which registers: KVM_SYNC_X86_*."""

    REGS = 1
    SREGS = 2
    EVENTS = 4


class SyncRegs:
    """The registers of an x86 vCPU in its run page.

    Ask for some with `valid`: from the next `run()` on they are here after each exit.  To change
    some, write to them and set their bit in `dirty`: the next `run()` begins with them, and clears
    the bit.

    Args:
        page: the vCPU's run page.
    """

    def __init__(self, page: memoryview) -> None:
        self._page = page
        shared = page[_SHARED:]
        self._regs = Regs.over(shared[_place("regs") :])
        self._sregs = Sregs.over(shared[_place("sregs") :])
        self._events = VcpuEvents.over(shared[_place("events") :])

    @property
    def valid(self) -> SyncReg:
        """What each exit brings."""
        return SyncReg(int.from_bytes(self._page[_VALID : _VALID + 8], "little"))

    @valid.setter
    def valid(self, which: SyncReg) -> None:
        self._page[_VALID : _VALID + 8] = unsigned("valid", which, 64).to_bytes(8, "little")

    @property
    def dirty(self) -> SyncReg:
        """What the next `run()` takes from here."""
        return SyncReg(int.from_bytes(self._page[_DIRTY : _DIRTY + 8], "little"))

    @dirty.setter
    def dirty(self, which: SyncReg) -> None:
        self._page[_DIRTY : _DIRTY + 8] = unsigned("dirty", which, 64).to_bytes(8, "little")

    @property
    def regs(self) -> Regs:
        """General registers: a view."""
        return self._regs

    @property
    def sregs(self) -> Sregs:
        """Segment and control registers: a view."""
        return self._sregs

    @property
    def events(self) -> VcpuEvents:
        """Events on their way in: a view."""
        return self._events


def _place(member: str) -> int:
    return ffi.offsetof("struct kvm_sync_regs", member)
