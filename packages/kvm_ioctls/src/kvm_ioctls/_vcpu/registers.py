"""An x86 vCPU's registers."""

from __future__ import annotations

from kvm_ioctls._arguments import of_kind
from kvm_ioctls._descriptor import Resource
from kvm_ioctls.structs import DebugRegs, Fpu, Regs, Sregs, Sregs2, Xcrs, Xsave


class Registers(Resource):
    """General, segment, control, vector and debug registers."""

    _xsave_size: int

    def get_regs(self) -> Regs:
        """KVM_GET_REGS: general registers, RIP, RFLAGS."""
        return self._fd.fetch("KVM_GET_REGS", Regs)

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        self._fd.put("KVM_SET_REGS", regs, Regs)

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS: segments, descriptor tables, control registers, EFER, APIC base."""
        return self._fd.fetch("KVM_GET_SREGS", Sregs)

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS; EINVAL for a state that no processor can be in."""
        self._fd.put("KVM_SET_SREGS", sregs, Sregs)

    def get_sregs2(self) -> Sregs2:
        """KVM_GET_SREGS2: as `get_sregs()`, with the page-directory pointers of PAE paging."""
        return self._fd.fetch("KVM_GET_SREGS2", Sregs2)

    def set_sregs2(self, sregs: Sregs2) -> None:
        """KVM_SET_SREGS2; EINVAL for a state that no processor can be in."""
        self._fd.put("KVM_SET_SREGS2", sregs, Sregs2)

    def get_fpu(self) -> Fpu:
        """KVM_GET_FPU: x87 and SSE registers."""
        return self._fd.fetch("KVM_GET_FPU", Fpu)

    def set_fpu(self, fpu: Fpu) -> None:
        """KVM_SET_FPU; before the first `run()` KVM forgets it: use `set_xsave()` there."""
        self._fd.put("KVM_SET_FPU", fpu, Fpu)

    def get_xsave(self) -> Xsave:
        """KVM_GET_XSAVE2, or KVM_GET_XSAVE where that is all there is."""
        xsave = Xsave.over(bytearray(max(self._xsave_size, Xsave.SIZE)))
        self._fd.ioctl_buffer("KVM_GET_XSAVE2" if self._xsave_size else "KVM_GET_XSAVE", xsave.raw)
        return xsave

    def set_xsave(self, xsave: Xsave) -> None:
        """KVM_SET_XSAVE.

        Raises:
            ValueError: `xsave` is shorter than this vCPU's area, which KVM would read past.
        """
        if len(of_kind("xsave", xsave, Xsave).raw) < self._xsave_size:
            raise ValueError(f"need {self._xsave_size} bytes of XSAVE area, not {len(xsave.raw)}")
        self._fd.put("KVM_SET_XSAVE", xsave, Xsave)

    def get_xcrs(self) -> Xcrs:
        """KVM_GET_XCRS: the extended control registers."""
        return self._fd.fetch("KVM_GET_XCRS", Xcrs)

    def set_xcrs(self, xcrs: Xcrs) -> None:
        """KVM_SET_XCRS."""
        self._fd.put("KVM_SET_XCRS", xcrs, Xcrs)

    def get_debugregs(self) -> DebugRegs:
        """KVM_GET_DEBUGREGS: the guest's own debug registers."""
        return self._fd.fetch("KVM_GET_DEBUGREGS", DebugRegs)

    def set_debugregs(self, debugregs: DebugRegs) -> None:
        """KVM_SET_DEBUGREGS."""
        self._fd.put("KVM_SET_DEBUGREGS", debugregs, DebugRegs)
