"""Switching capabilities on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls._descriptor import Resource, record

if TYPE_CHECKING:
    from kvm_ioctls.caps import Cap


class Capabilities(Resource):
    """What has capabilities to switch on: machines and vCPUs."""

    def enable_cap(self, cap: Cap | int, *args: int, flags: int = 0) -> None:
        """KVM_ENABLE_CAP with up to four arguments; no capability has `flags` yet."""
        what = {"cap": cap, "args": args, "flags": flags}
        self._fd.ioctl_record("KVM_ENABLE_CAP", record("struct kvm_enable_cap", what))
