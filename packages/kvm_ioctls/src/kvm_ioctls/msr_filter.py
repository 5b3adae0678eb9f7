"""Which model-specific registers a guest may reach without asking.

Source: Documentation/virt/kvm/api.rst, section 4.97, KVM_X86_SET_MSR_FILTER.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kvm_ioctls._arguments import elements, octets, unsigned, within
from kvm_ioctls._ffi import lib

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvm_ioctls._ffi import CData


class MsrFilterRange(NamedTuple):
    """Neighbouring registers with a bit each: 1 allows the accesses in `flags`, 0 denies them.

    Attributes:
        base: the first register's index.
        nmsrs: how many registers; up to 12,288.
        bitmap: one bit per register, at least `nmsrs` bits.
        flags: KVM_MSR_FILTER_READ (1), KVM_MSR_FILTER_WRITE (2), or both.
    """

    base: int
    nmsrs: int
    bitmap: bytes
    flags: int = 3

    @classmethod
    def allowing(
        cls, base: int, nmsrs: int, allowed: Iterable[int] = (), flags: int = 3
    ) -> MsrFilterRange:
        """Registers `base` to `base + nmsrs - 1`, of which those in `allowed` are allowed.

        Raises:
            ValueError: there are too many registers, or one of `allowed` is not among them.
        """
        unsigned("base", base, 32)
        size, bits = _bitmap_size(nmsrs), 0
        for index in elements("allowed", allowed):
            if not base <= unsigned("an allowed MSR", index, 32) < base + nmsrs:
                raise ValueError(f"MSR {index:#x} is not in {base:#x} to {base + nmsrs - 1:#x}")
            bits |= 1 << (index - base)
        return cls(base, nmsrs, bits.to_bytes(size, "little"), flags)

    def record(self, held: CData) -> dict[str, Any]:
        """What the kernel takes, with the bitmap's copy in `held`.

        Raises:
            ValueError: the bitmap is too short for `nmsrs` registers, or has more than KVM takes.
        """
        size = len(octets("bitmap", self.bitmap))
        if size < _bitmap_size(self.nmsrs):
            raise ValueError(f"{self.nmsrs} registers need more than {size} bytes")
        return {"flags": self.flags, "nmsrs": self.nmsrs, "base": self.base, "bitmap": held}


def _bitmap_size(nmsrs: int) -> int:
    """How many bytes have a bit for each of so many registers."""
    most = lib.KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8
    if not 0 < within("nmsrs", nmsrs, -(2**63), 2**63) <= most:
        raise ValueError(f"an MSR filter range has 1 to {most} registers, not {nmsrs}")
    return (nmsrs + 7) // 8
