"""What soft_kvm answers to KVM_CHECK_EXTENSION."""

from __future__ import annotations

from kvm_ioctls import Cap

MAX_VCPUS = 1
"""For now: the engine is written to serve several, but nothing has proved it yet."""

MEMSLOTS = 512

_ANSWERS: dict[int, int] = {
    Cap.IRQCHIP: 1,
    Cap.HLT: 1,
    Cap.USER_MEMORY: 1,
    Cap.SET_TSS_ADDR: 1,
    Cap.EXT_CPUID: 1,
    Cap.NR_VCPUS: MAX_VCPUS,
    Cap.MAX_VCPUS: MAX_VCPUS,
    Cap.MAX_VCPU_ID: MAX_VCPUS,
    Cap.NR_MEMSLOTS: MEMSLOTS,
    Cap.PIT: 1,
    Cap.NOP_IO_DELAY: 1,
    Cap.MP_STATE: 1,
    Cap.SYNC_MMU: 1,
    Cap.USER_NMI: 1,
    Cap.DESTROY_MEMORY_REGION_WORKS: 1,
    Cap.JOIN_MEMORY_REGIONS_WORKS: 1,
    Cap.IRQ_ROUTING: 1024,
    Cap.IRQFD: 1,
    Cap.PIT2: 1,
    Cap.PIT_STATE2: 1,
    Cap.IOEVENTFD: 1,
    Cap.IOEVENTFD_NO_LENGTH: 1,
    Cap.SET_IDENTITY_MAP_ADDR: 1,
    Cap.ADJUST_CLOCK: 1,
    Cap.INTERNAL_ERROR_DATA: 1,
    Cap.VCPU_EVENTS: 1,
    Cap.DEBUGREGS: 1,
    Cap.GET_TSC_KHZ: 1,
    Cap.SIGNAL_MSI: 1,
    Cap.IOAPIC_POLARITY_IGNORED: 1,
    Cap.CHECK_EXTENSION_VM: 1,
    Cap.IMMEDIATE_EXIT: 1,
}


def answer(cap: Cap | int) -> int:
    """KVM_CHECK_EXTENSION: 0 for everything that is not there or not known."""
    return _ANSWERS.get(int(cap), 0)
