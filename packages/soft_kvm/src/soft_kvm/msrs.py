"""Which model-specific registers there are.

A guest's access to any other raises #GP, KVM_GET_MSRS and KVM_SET_MSRS refuse it.  The C part
(intercept.c) decides the same for the guest.  MISC_ENABLE never says there that string
instructions are fast: they are the engine's slowest, and a guest that is told so uses plain loops,
which are not.
"""

from __future__ import annotations

MISC_ENABLE = 0x1A0

# Intel SDM vol. 4 ch. 2, AMD APM vol. 2 app. A.
KNOWN = (
    0x10,  # TSC
    0x1B,  # APIC_BASE
    0x3B,  # TSC_ADJUST
    0x8B,  # IA32_BIOS_SIGN_ID, the microcode's revision
    MISC_ENABLE,
    0x174, 0x175, 0x176,  # SYSENTER_CS, _ESP, _EIP
    *range(0x200, 0x210),  # MTRR_PHYSBASE/MASK 0-7
    0x250, 0x258, 0x259, *range(0x268, 0x270),  # fixed MTRRs
    0x277,  # PAT
    0x2FF,  # MTRR_DEF_TYPE
    0xC0000080,  # EFER
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084,  # STAR, LSTAR, CSTAR, FMASK
    0xC0000100, 0xC0000101, 0xC0000102,  # FS_BASE, GS_BASE, KERNEL_GS_BASE
    0xC0000103,  # TSC_AUX
)  # fmt: skip
_KNOWN = frozenset(KNOWN)


def is_known(index: int) -> bool:
    """Whether KVM_SET_MSRS takes it."""
    return index in _KNOWN
