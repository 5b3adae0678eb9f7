"""What x86 guests may do without asking: filters for MSRs and performance events."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kvm_ioctls._arguments import elements, octets, of_kind, unsigned
from kvm_ioctls._descriptor import Resource, record
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.msr_filter import MsrFilterRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Policy(Resource):
    """Filters."""

    def set_msr_filter(
        self, ranges: Sequence[MsrFilterRange], *, default_allow: bool = True
    ) -> None:
        """KVM_X86_SET_MSR_FILTER: which model-specific registers KVM handles by itself.

        What the filter denies is an exit (`X86Rdmsr`, `X86Wrmsr`) with KVM_CAP_X86_USER_SPACE_MSR
        and KVM_MSR_EXIT_REASON_FILTER, a #GP otherwise.

        Args:
            ranges: at most 16; none of them and `default_allow` ends filtering.
            default_allow: what becomes of registers that no range has.

        Raises:
            ValueError: there are too many ranges.
            KvmError: EINVAL for denying everything.
        """
        listed = [of_kind("a range", one, MsrFilterRange) for one in elements("ranges", ranges)]
        if len(listed) > lib.KVM_MSR_FILTER_MAX_RANGES:
            most = lib.KVM_MSR_FILTER_MAX_RANGES
            raise ValueError(f"an MSR filter has at most {most} ranges, not {len(listed)}")
        default = "ALLOW" if default_allow else "DENY"
        # alive until the call is over
        bitmaps = [ffi.new("__u8[]", octets("bitmap", one.bitmap)) for one in listed]
        what = [one.record(held) for one, held in zip(listed, bitmaps, strict=True)]
        flags = getattr(lib, f"KVM_MSR_FILTER_DEFAULT_{default}")
        made = record("struct kvm_msr_filter", {"flags": flags, "ranges": what})
        self._fd.ioctl_record("KVM_X86_SET_MSR_FILTER", made)

    def set_pmu_event_filter(
        self,
        events: Iterable[int],
        *,
        allow: bool,
        fixed_counter_bitmap: int = 0,
        flags: int = 0,
    ) -> None:
        """KVM_SET_PMU_EVENT_FILTER: which performance events the guest may count.

        Args:
            events: event selectors with their unit masks, at most 300.
            allow: whether these alone are allowed, or these alone denied.
            fixed_counter_bitmap: the same for the fixed counters, a bit for each.
            flags: KVM_PMU_EVENT_FLAG_MASKED_EVENTS (1) gives `events` masks.
        """
        listed = [unsigned("an event", event, 64) for event in elements("events", events)]
        fixed = unsigned("fixed_counter_bitmap", fixed_counter_bitmap, 32)
        action = lib.KVM_PMU_EVENT_ALLOW if allow else lib.KVM_PMU_EVENT_DENY
        header = struct.pack("=IIII16x", action, len(listed), fixed, unsigned("flags", flags, 32))
        packed = bytearray(header + struct.pack(f"={len(listed)}Q", *listed))
        self._fd.ioctl_buffer("KVM_SET_PMU_EVENT_FILTER", packed)
