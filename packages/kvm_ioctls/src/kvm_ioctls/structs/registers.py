"""The state of an x86 processor: general, segment, control, vector and debug registers."""

from __future__ import annotations

from kvm_ioctls._struct import ZERO, KvmStruct


class Regs(KvmStruct, ctype="struct kvm_regs"):
    """General registers, instruction pointer and flags (KVM_GET_REGS)."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 0


class Segment(KvmStruct, ctype="struct kvm_segment"):
    """A segment register with its cached descriptor (SDM vol. 3 §3.4.3); `limit` in bytes."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741 - the descriptor's L bit
    g: int = 0
    avl: int = 0
    unusable: int = 0


class Dtable(KvmStruct, ctype="struct kvm_dtable"):
    """GDTR or IDTR."""

    base: int = 0
    limit: int = 0


class Sregs(KvmStruct, ctype="struct kvm_sregs"):
    """Segments, descriptor tables, control registers, EFER and APIC base (KVM_GET_SREGS)."""

    cs: Segment = ZERO
    ds: Segment = ZERO
    es: Segment = ZERO
    fs: Segment = ZERO
    gs: Segment = ZERO
    ss: Segment = ZERO
    tr: Segment = ZERO
    ldt: Segment = ZERO
    gdt: Dtable = ZERO
    idt: Dtable = ZERO
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0
    interrupt_bitmap: memoryview = ZERO


class Sregs2(KvmStruct, ctype="struct kvm_sregs2"):
    """`Sregs` and the page-directory pointers of PAE paging (KVM_GET_SREGS2).

    `pdptrs` counts when `flags` has KVM_SREGS2_FLAGS_PDPTRS_VALID (1).
    """

    cs: Segment = ZERO
    ds: Segment = ZERO
    es: Segment = ZERO
    fs: Segment = ZERO
    gs: Segment = ZERO
    ss: Segment = ZERO
    tr: Segment = ZERO
    ldt: Segment = ZERO
    gdt: Dtable = ZERO
    idt: Dtable = ZERO
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0
    flags: int = 0
    pdptrs: memoryview = ZERO


class Fpu(KvmStruct, ctype="struct kvm_fpu"):
    """x87 and SSE state (KVM_GET_FPU); `fpr` and `xmm` are tuples of 16-byte views.

    x86's KVM neither reports nor takes `mxcsr` here: it is in the XSAVE area.
    """

    fpr: tuple[memoryview, ...] = ZERO
    fcw: int = 0
    fsw: int = 0
    ftwx: int = 0
    last_opcode: int = 0
    last_ip: int = 0
    last_dp: int = 0
    xmm: tuple[memoryview, ...] = ZERO
    mxcsr: int = 0


class Xsave(KvmStruct, ctype="struct kvm_xsave", grows=True):
    """The XSAVE area (KVM_GET_XSAVE2): `raw` is longer than `region` on some hosts."""

    region: memoryview = ZERO


class Xcr(KvmStruct, ctype="struct kvm_xcr"):
    """One extended control register: XCR number and value."""

    xcr: int = 0
    value: int = 0


class Xcrs(KvmStruct, ctype="struct kvm_xcrs"):
    """The extended control registers (KVM_GET_XCRS): the first `nr_xcrs` of `xcrs`."""

    nr_xcrs: int = 0
    flags: int = 0
    xcrs: tuple[Xcr, ...] = ZERO


class DebugRegs(KvmStruct, ctype="struct kvm_debugregs"):
    """The guest's own debug registers (KVM_GET_DEBUGREGS); `db` is DR0 to DR3."""

    db: memoryview = ZERO
    dr6: int = 0
    dr7: int = 0
    flags: int = 0
