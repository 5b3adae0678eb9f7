/*
 * What Python calls.  Every function returns 0 (or a count) or a negative errno, as the KVM API.
 * Records are the KVM API's own.  The caller keeps `run`, slot memory and file descriptors alive.
 */
#ifndef SOFT_KVM_API_H
#define SOFT_KVM_API_H

#include "machine.h"

/* vm.c */
struct sk_vm *sk_vm_new(const struct sk_layout *layout, int cpu_model);
void sk_vm_free(struct sk_vm *vm); /* after every vCPU */
int sk_vm_set_memory(struct sk_vm *vm, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host);
int sk_vm_take_dirty(struct sk_vm *vm, uint32_t id, uint64_t *bits, size_t words);
int sk_vm_invalidate(struct sk_vm *vm, uint64_t gpa, uint64_t size);
int sk_vm_create_irqchip(struct sk_vm *vm);
int sk_vm_create_pit(struct sk_vm *vm);
int sk_vm_irq_line(struct sk_vm *vm, uint32_t gsi, int level);
int sk_vm_signal_msi(struct sk_vm *vm, uint64_t address, uint32_t data);
int sk_vm_irqfd(struct sk_vm *vm, int fd, uint32_t gsi, int assign);
int sk_vm_ioevent(struct sk_vm *vm, uint64_t datamatch, uint64_t address, uint32_t length, int fd, uint32_t flags); /* flags: KVM_IOEVENTFD_FLAG_* */
int sk_vm_set_routes(struct sk_vm *vm, const struct kvm_irq_routing_entry *entries, uint32_t count);
int sk_vm_get_irqchip(struct sk_vm *vm, struct kvm_irqchip *state);
int sk_vm_set_irqchip(struct sk_vm *vm, const struct kvm_irqchip *state);
int sk_vm_get_pit(struct sk_vm *vm, struct kvm_pit_state2 *state);
int sk_vm_set_pit(struct sk_vm *vm, const struct kvm_pit_state2 *state);
int sk_vm_get_clock(struct sk_vm *vm, uint64_t *ns);
int sk_vm_set_clock(struct sk_vm *vm, uint64_t ns);

/* vcpu.c */
struct sk_vcpu *sk_vcpu_new(struct sk_vm *vm, uint32_t id, void *run, int *error);
void sk_vcpu_free(struct sk_vcpu *v);
int sk_vcpu_run(struct sk_vcpu *v); /* run.c */
void sk_vcpu_kick(struct sk_vcpu *v);
const char *sk_vcpu_error(const struct sk_vcpu *v);
int sk_vcpu_set_cpuid(struct sk_vcpu *v, const struct kvm_cpuid_entry2 *entries, uint32_t count);
int sk_vcpu_get_mp_state(struct sk_vcpu *v);
int sk_vcpu_set_mp_state(struct sk_vcpu *v, uint32_t state);
int sk_vcpu_interrupt(struct sk_vcpu *v, uint32_t vector);
int sk_vcpu_nmi(struct sk_vcpu *v);
int sk_vcpu_get_lapic(struct sk_vcpu *v, struct kvm_lapic_state *state);
int sk_vcpu_set_lapic(struct sk_vcpu *v, const struct kvm_lapic_state *state);
int sk_vcpu_get_events(struct sk_vcpu *v, struct kvm_vcpu_events *events);
int sk_vcpu_set_events(struct sk_vcpu *v, const struct kvm_vcpu_events *events);

/* state.c */
int sk_vcpu_get_regs(struct sk_vcpu *v, struct kvm_regs *regs);
int sk_vcpu_set_regs(struct sk_vcpu *v, const struct kvm_regs *regs);
int sk_vcpu_get_sregs(struct sk_vcpu *v, struct kvm_sregs *sregs);
int sk_vcpu_set_sregs(struct sk_vcpu *v, const struct kvm_sregs *sregs);
int sk_vcpu_get_fpu(struct sk_vcpu *v, struct kvm_fpu *fpu);
int sk_vcpu_set_fpu(struct sk_vcpu *v, const struct kvm_fpu *fpu);
int sk_vcpu_get_msr(struct sk_vcpu *v, uint32_t index, uint64_t *value);
int sk_vcpu_set_msr(struct sk_vcpu *v, uint32_t index, uint64_t value);
int sk_vcpu_get_debug(struct sk_vcpu *v, unsigned n, uint64_t *value); /* DR0-DR7 */
int sk_vcpu_set_debug(struct sk_vcpu *v, unsigned n, uint64_t value);
int sk_vcpu_translate(struct sk_vcpu *v, struct kvm_translation *translation);

/* shared by the files above */
int sk_set_memory(struct sk_vm *vm, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host, bool in_instruction); /* memory.c */
void sk_prepare_stack(struct sk_vcpu *v, size_t size);                                                       /* run.c */

#endif
