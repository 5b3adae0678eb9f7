"""Switching capabilities on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls._descriptor import Resource, record

if TYPE_CHECKING:
    from kvm_ioctls.caps import Cap


class Capabilities(Resource):
    """What has capabilities to switch on: machines and vCPUs."""

    def enable_cap(self, cap: Cap | int, *args: int) -> None:
        """KVM_ENABLE_CAP with up to four arguments."""
        what = {"cap": int(cap), "args": [*args, 0, 0, 0, 0][: max(4, len(args))]}
        self._fd.ioctl_record("KVM_ENABLE_CAP", record("struct kvm_enable_cap", what))
