/*
 * Names for the parts of the kernel's structures that the header leaves without one, so that the
 * compiler can tell their layout.
 */
#ifndef KVM_IOCTLS_LAYOUT_H
#define KVM_IOCTLS_LAYOUT_H

#include "_mapping.h"
#include "_newer.h"
#include "_rings.h"
#include "_zones.h"

#define NAME_MEMBER(structure, member) \
    typedef __typeof__(((struct structure *)0)->member) structure##_##member

#define NAME_PART(name, structure, member) \
    typedef __typeof__(((struct structure *)0)->member) name

NAME_MEMBER(kvm_irq_routing_entry, u);

#if defined(__x86_64__)
NAME_PART(kvm_ioapic_state_entry, kvm_ioapic_state, redirtbl[0]);
NAME_MEMBER(kvm_irqchip, chip);
NAME_MEMBER(kvm_vcpu_events, exception);
NAME_MEMBER(kvm_vcpu_events, interrupt);
NAME_MEMBER(kvm_vcpu_events, nmi);
NAME_MEMBER(kvm_vcpu_events, smi);
NAME_MEMBER(kvm_vcpu_events, triple_fault);
NAME_MEMBER(kvm_xen_hvm_attr, u);
NAME_MEMBER(kvm_xen_vcpu_attr, u);
#elif defined(__aarch64__)
NAME_MEMBER(kvm_vcpu_events, exception);
#endif

NAME_MEMBER(kvm_hyperv_exit, u);
NAME_PART(kvm_hyperv_exit_synic, kvm_hyperv_exit, u.synic);
NAME_PART(kvm_hyperv_exit_hcall, kvm_hyperv_exit, u.hcall);
NAME_PART(kvm_hyperv_exit_syndbg, kvm_hyperv_exit, u.syndbg);
NAME_MEMBER(kvm_xen_exit, u);
NAME_PART(kvm_xen_exit_hcall, kvm_xen_exit, u.hcall);

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
NAME_MEMBER(kvm_run, arm_nisv);
NAME_MEMBER(kvm_run, riscv_sbi);
NAME_MEMBER(kvm_run, riscv_csr);
NAME_MEMBER(kvm_run, epr);
NAME_MEMBER(kvm_run, osi);
NAME_MEMBER(kvm_run, s);

#endif
