/* What Python sees of api.h, unicorn.h and image.h, in the form that cffi's cdef() reads.  The KVM records are opaque: buffers of the kernel's size are cast to them. */

struct kvm_lapic_state; struct kvm_irqchip; struct kvm_pit_state2; struct kvm_irq_routing_entry;
struct kvm_cpuid_entry2; struct kvm_vcpu_events; struct kvm_regs; struct kvm_sregs; struct kvm_fpu; struct kvm_translation;

struct sk_layout {
    uint32_t size, regs, eip, eflags, cc_src, cc_op, df, hflags, segs, seg_stride, ldt, tr, gdt, idt, cr, efer, error_code, is_int, next_eip, old_exception, vm_vmcb, intercept, intercept_cr_read, star, lstar, cstar, fmask, sysenter_esp, sysenter_eip, tsc_aux;
};

/* The engine itself, for finding the layout and asking its CPUID. */
typedef struct uc_struct uc_engine;
typedef struct uc_context uc_context;
struct sk_unicorn {
    unsigned (*version)(unsigned *major, unsigned *minor);
    int (*open)(int arch, int mode, uc_engine **uc);
    int (*close)(uc_engine *uc);
    const char *(*strerror)(int code);
    int (*reg_read)(uc_engine *uc, int regid, void *value);
    int (*reg_write)(uc_engine *uc, int regid, const void *value);
    int (*mem_map_ptr)(uc_engine *uc, uint64_t address, uint64_t size, uint32_t perms, void *ptr);
    int (*emu_start)(uc_engine *uc, uint64_t begin, uint64_t until, uint64_t timeout, size_t count);
    int (*context_alloc)(uc_engine *uc, uc_context **context);
    int (*context_save)(uc_engine *uc, uc_context *context);
    int (*context_restore)(uc_engine *uc, uc_context *context);
    int (*context_free)(uc_context *context);
    size_t (*context_size)(uc_engine *uc);
    ...;
};
extern struct sk_unicorn sk_uc;
const char *sk_unicorn_load(const char *path);
int sk_probe_open(int cpu_model, uc_engine **uc);
int sk_probe_on_interrupt(uc_engine *uc, uc_context *context, uint32_t *number);

struct sk_vm; struct sk_vcpu;
struct sk_vm *sk_vm_new(const struct sk_layout *layout, int cpu_model);
void sk_vm_free(struct sk_vm *vm);
int sk_vm_set_memory(struct sk_vm *vm, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size, void *host);
int sk_vm_take_dirty(struct sk_vm *vm, uint32_t id, uint64_t *bits, size_t words);
int sk_vm_invalidate(struct sk_vm *vm, uint64_t gpa, uint64_t size);
int sk_vm_create_irqchip(struct sk_vm *vm);
int sk_vm_create_pit(struct sk_vm *vm);
int sk_vm_irq_line(struct sk_vm *vm, uint32_t gsi, int level);
int sk_vm_signal_msi(struct sk_vm *vm, uint64_t address, uint32_t data);
int sk_vm_irqfd(struct sk_vm *vm, int fd, uint32_t gsi, int assign);
int sk_vm_ioevent(struct sk_vm *vm, uint64_t datamatch, uint64_t address, uint32_t length, int fd, uint32_t flags);
int sk_vm_set_routes(struct sk_vm *vm, const struct kvm_irq_routing_entry *entries, uint32_t count);
int sk_vm_get_irqchip(struct sk_vm *vm, struct kvm_irqchip *state);
int sk_vm_set_irqchip(struct sk_vm *vm, const struct kvm_irqchip *state);
int sk_vm_get_pit(struct sk_vm *vm, struct kvm_pit_state2 *state);
int sk_vm_set_pit(struct sk_vm *vm, const struct kvm_pit_state2 *state);
int sk_vm_get_clock(struct sk_vm *vm, uint64_t *ns);
int sk_vm_set_clock(struct sk_vm *vm, uint64_t ns);

struct sk_vcpu *sk_vcpu_new(struct sk_vm *vm, uint32_t id, void *run, int *error);
void sk_vcpu_free(struct sk_vcpu *v);
int sk_vcpu_run(struct sk_vcpu *v);
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
int sk_vcpu_get_regs(struct sk_vcpu *v, struct kvm_regs *regs);
int sk_vcpu_set_regs(struct sk_vcpu *v, const struct kvm_regs *regs);
int sk_vcpu_get_sregs(struct sk_vcpu *v, struct kvm_sregs *sregs);
int sk_vcpu_set_sregs(struct sk_vcpu *v, const struct kvm_sregs *sregs);
int sk_vcpu_get_fpu(struct sk_vcpu *v, struct kvm_fpu *fpu);
int sk_vcpu_set_fpu(struct sk_vcpu *v, const struct kvm_fpu *fpu);
int sk_vcpu_get_msr(struct sk_vcpu *v, uint32_t index, uint64_t *value);
int sk_vcpu_set_msr(struct sk_vcpu *v, uint32_t index, uint64_t value);
int sk_vcpu_get_debug(struct sk_vcpu *v, unsigned n, uint64_t *value);
int sk_vcpu_set_debug(struct sk_vcpu *v, unsigned n, uint64_t value);
int sk_vcpu_translate(struct sk_vcpu *v, struct kvm_translation *translation);

#define SK_MAX_IMAGE ...
#define KVM_IOEVENTFD_FLAG_DATAMATCH ...
#define KVM_IOEVENTFD_FLAG_PIO ...
#define KVM_IOEVENTFD_FLAG_DEASSIGN ...
