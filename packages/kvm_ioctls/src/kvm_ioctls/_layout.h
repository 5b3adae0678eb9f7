/*
 * Names for the parts of the kernel's structures that the header leaves without one, so that the
 * compiler can tell their layout.
 */
#ifndef KVM_IOCTLS_LAYOUT_H
#define KVM_IOCTLS_LAYOUT_H

#include "_newer.h"
#include "_runner.h"

#define NAME_MEMBER(structure, member) \
    typedef __typeof__(((struct structure *)0)->member) structure##_##member

typedef __typeof__(((struct kvm_ioapic_state *)0)->redirtbl[0]) kvm_ioapic_state_entry;
NAME_MEMBER(kvm_irqchip, chip);
NAME_MEMBER(kvm_irq_routing_entry, u);

NAME_MEMBER(kvm_vcpu_events, exception);
NAME_MEMBER(kvm_vcpu_events, interrupt);
NAME_MEMBER(kvm_vcpu_events, nmi);
NAME_MEMBER(kvm_vcpu_events, smi);

NAME_MEMBER(kvm_run, hw);
NAME_MEMBER(kvm_run, fail_entry);
NAME_MEMBER(kvm_run, ex);
NAME_MEMBER(kvm_run, io);
NAME_MEMBER(kvm_run, debug);
NAME_MEMBER(kvm_run, mmio);
NAME_MEMBER(kvm_run, hypercall);
NAME_MEMBER(kvm_run, tpr_access);
NAME_MEMBER(kvm_run, internal);
NAME_MEMBER(kvm_run, emulation_failure);
NAME_MEMBER(kvm_run, system_event);
NAME_MEMBER(kvm_run, eoi);
NAME_MEMBER(kvm_run, msr);
NAME_MEMBER(kvm_run, notify);

#endif
