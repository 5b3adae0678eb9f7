"""Stopping a vCPU from elsewhere, without a say in how long it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from kvm_ioctls.errors import KvmClosedError

if TYPE_CHECKING:
    from kvm_ioctls.protocols import Vcpu


class Kicker:
    """Stops one vCPU, of whichever hypervisor; for timers, signal handlers and other threads.

    Unlike the vCPU's own `kick()` it may be called at any time: it keeps the vCPU neither open nor
    in memory, and whoever calls it need not know whether somebody has closed the vCPU.

    Args:
        vcpu: the vCPU.
    """

    __slots__ = ("_vcpu",)

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = ref(vcpu)

    def kick(self) -> bool:
        """Ends the vCPU's current `run()`, or else the next one, with `Interrupted`: exactly once.

        Returns:
            False when the vCPU is closed, and there is nothing left to stop.
        """
        vcpu = self._vcpu()
        if vcpu is None:
            return False
        try:
            vcpu.kick()
        except KvmClosedError:
            return False
        return True
