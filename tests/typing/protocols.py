"""Type-checked, never run: both hypervisors fit one seam, and foreign classes fit the others."""

from __future__ import annotations

import kvm_ioctls
import soft_kvm
from kvm_ioctls.protocols import Hypervisor, Vcpu, Vm


def both_are_hypervisors() -> list[Hypervisor]:
    """A monitor takes either."""
    return [kvm_ioctls.Kvm(), soft_kvm.Kvm()]


def a_monitor_needs_only_the_protocols(hypervisor: Hypervisor) -> kvm_ioctls.Exit:
    """What a monitor does is expressible without naming an implementation."""
    vm: Vm = hypervisor.create_vm()
    vm.set_user_memory_region(0, 0, bytearray(0x1000))
    vcpu: Vcpu = vm.create_vcpu(0)
    return vcpu.run()


def exits_are_taken_apart_by_match(vcpu: Vcpu) -> int:
    """Attributes of an exit have their types inside a `match`."""
    match vcpu.run():
        case kvm_ioctls.IoOut(port=port, data=data):
            return port + len(data)
        case kvm_ioctls.MmioWrite(address=address):
            return address
        case _:
            return 0
