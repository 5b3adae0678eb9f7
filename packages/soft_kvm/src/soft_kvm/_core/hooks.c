/*
 * The engine's callbacks: where emulated code meets the rest of the machine.
 *
 * All run on a vCPU's engine stack, in the thread that holds the baton, with the engine in the
 * middle of an instruction.  A callback may change the vCPU only in the ways that the engine
 * honours there: IN, CPUID and RDTSC results by register writes, everything else through the image;
 * RIP by reg_write in the block callback only.
 */
#include "machine.h"

static struct sk_vcpu *running(void *data) { return ((struct sk_vm *)data)->current; }

/* ---- blocks: the deterministic stop points --------------------------------------------------- */

static void stop(struct sk_vcpu *v, enum sk_stop why)
{
    v->stop = why;
    sk_uc.emu_stop(v->vm->uc);
}

/* From a block callback: on with the image instead of the block. */
static void leave_block(struct sk_vcpu *v)
{
    uint64_t rip = image_u64(&v->image, v->image.at->eip);

    sk_image_store(v);
    sk_uc.reg_write(v->vm->uc, UC_X86_REG_RIP, &rip);
}

static void look_around(struct sk_vcpu *v)
{
    struct sk_vm *vm = v->vm;
    uint64_t now = sk_now();
    bool ask_kernel = now >= v->next_poll;

    v->budget = SK_BLOCKS_PER_SLICE;
    v->armed = false;
    if (v->stale || vm->map_changed) {
        stop(v, SK_STOP_SETTLE);
        return;
    }
    if (ask_kernel)
        v->next_poll = now + 100000;
    if (sk_wants_stop(v, ask_kernel)) {
        stop(v, SK_STOP_INTERRUPTED);
        return;
    }
    if (vm->chip && (ask_kernel || sk_irqchip_deadline(vm->chip) <= now))
        sk_poll_inputs(vm, now);
    if (atomic_load_explicit(&vm->waiting, memory_order_relaxed) && now >= v->slice_end) {
        stop(v, SK_STOP_YIELD);
        return;
    }
    if (!sk_has_event(v)) {
        if (v->run->request_interrupt_window) {
            sk_image_load(v);
            if (sk_can_interrupt(v))
                stop(v, SK_STOP_WINDOW);
        }
        return;
    }
    sk_image_load(v);
    switch (sk_inject(v)) {
    case SK_TRIPLE_FAULT:
        stop(v, SK_STOP_SHUTDOWN);
        break;
    case SK_INJECTED:
        leave_block(v);
        break;
    case SK_NOTHING:
        v->armed = true;
    }
}

/* An event waits: the first block that can be interrupted is where it goes in, however short the window. */
static bool window_opened(struct sk_vcpu *v)
{
    uint64_t rflags = 0;

    sk_uc.reg_read(v->vm->uc, UC_X86_REG_EFLAGS, &rflags);
    return rflags & SK_FL_IF;
}

static void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
    struct sk_vcpu *v = running(data);

    (void)uc;
    if ((--v->budget <= 0 || (v->armed && window_opened(v))) && !v->replaced)
        look_around(v);
    else if (size <= 3 && sk_string_maybe(v->vm, address) && !v->replaced && sk_string_run(v, address, size))
        leave_block(v);
}

/* ---- exceptions ------------------------------------------------------------------------------ */

static void deliver(struct sk_vcpu *v, struct sk_event event)
{
    if (!sk_deliver(v, event)) {
        stop(v, SK_STOP_SHUTDOWN);
        return;
    }
    sk_image_store(v);
    if (--v->budget > 0) /* a handler that cannot be fetched never starts a block */
        return;
    v->budget = 1;
    if (sk_wants_stop(v, true))
        stop(v, SK_STOP_INTERRUPTED);
    else if (atomic_load_explicit(&v->vm->waiting, memory_order_relaxed) && sk_now() >= v->slice_end)
        stop(v, SK_STOP_YIELD);
}

/* INT n is two bytes; INT3, INTO and INT1 are one.  The engine has already moved RIP behind it. */
static uint64_t software_interrupt_start(struct sk_vcpu *v, uint8_t vector, uint64_t next)
{
    const struct sk_image *m = &v->image;
    uint64_t base = image_hflags(m) & SK_HF_CS64 ? 0 : image_segment(m, SK_CS).base;
    uint8_t bytes[2];
    bool two = sk_read_linear(v, base + next - 2, bytes, 2, NULL) && bytes[0] == 0xcd && bytes[1] == vector;

    return next - 1 - two;
}

static void on_interrupt(uc_engine *uc, uint32_t number, void *data)
{
    struct sk_vcpu *v = running(data);
    struct sk_event event = {.vector = (uint8_t)number, .kind = SK_EXCEPTION};
    const struct sk_image *m = &v->image;

    (void)uc;
    if (v->replaced) {
        sk_uc.emu_stop(v->vm->uc);
        return;
    }
    sk_image_load(v);
    event.return_rip = event.faulting_rip = image_u64(m, m->at->eip);
    if (number >= 0x100) {
        if (sk_intercepted(v, number - 0x100)) {
            v->budget = 1; /* a task priority may have let an interrupt through */
            sk_image_store(v);
            return;
        }
        event.vector = 13;
        event.has_error = true;
    } else if (image_u32(m, m->at->is_int)) {
        event.kind = SK_SOFTWARE_INTERRUPT;
        event.return_rip = image_u64(m, m->at->next_eip);
        event.faulting_rip = software_interrupt_start(v, event.vector, event.return_rip);
    } else if (sk_vector_has_error(number)) {
        event.has_error = true;
        event.error = image_u32(m, m->at->error_code);
    }
    deliver(v, event);
}

static void invalid_opcode(struct sk_vcpu *v)
{
    uint64_t rip = image_u64(&v->image, v->image.at->eip);

    deliver(v, (struct sk_event){.vector = 6, .kind = SK_EXCEPTION, .return_rip = rip, .faulting_rip = rip});
}

static bool on_invalid(uc_engine *uc, void *data)
{
    struct sk_vcpu *v = running(data);

    (void)uc;
    sk_image_load(v);
    invalid_opcode(v);
    return true;
}

/* The engine adds the instruction's length after the hook. */
static void invalid_system_call(struct sk_vcpu *v)
{
    invalid_opcode(v);
    sk_image_load(v);
    image_set_u64(&v->image, v->image.at->eip, image_u64(&v->image, v->image.at->eip) - 2);
    sk_image_store(v);
}

/* As on Intel's processors: in 64-bit code only. */
static void on_syscall(uc_engine *uc, void *data)
{
    struct sk_vcpu *v = running(data);

    (void)uc;
    sk_image_load(v);
    if (!(image_u64(&v->image, v->image.at->efer) & SK_EFER_SCE) || !(image_hflags(&v->image) & SK_HF_CS64)) {
        invalid_system_call(v);
        return;
    }
    sk_enter_syscall(v);
    sk_image_store(v);
}

/* CPUID does not offer it: without a hook the engine would pass over it. */
static void on_sysenter(uc_engine *uc, void *data)
{
    struct sk_vcpu *v = running(data);

    (void)uc;
    sk_image_load(v);
    invalid_system_call(v);
}

/* ---- instructions ---------------------------------------------------------------------------- */

static int on_rdtsc(uc_engine *uc, void *data)
{
    uint64_t ticks = sk_now() - ((struct sk_vm *)data)->tsc_origin, low = ticks & 0xffffffff, high = ticks >> 32;

    sk_uc.reg_write(uc, UC_X86_REG_RAX, &low);
    sk_uc.reg_write(uc, UC_X86_REG_RDX, &high);
    return 1;
}

static int on_rdtscp(uc_engine *uc, void *data)
{
    struct sk_vcpu *v = running(data);
    uint64_t aux;

    sk_image_load(v);
    aux = image_u32(&v->image, v->image.at->tsc_aux);
    sk_uc.reg_write(uc, UC_X86_REG_RCX, &aux);
    return on_rdtsc(uc, data);
}

/* The leaf of KVM_SET_CPUID2, with the SDM's rule for leaves above the maximum: they repeat the highest basic one. */
static const struct kvm_cpuid_entry2 *find_leaf(const struct sk_vcpu *v, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < v->cpuid_count; i++) {
        const struct kvm_cpuid_entry2 *e = &v->cpuid[i];

        if (e->function == function && (e->index == index || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
            return e;
    }
    return NULL;
}

static int on_cpuid(uc_engine *uc, void *data)
{
    struct sk_vcpu *v = running(data);
    const struct kvm_cpuid_entry2 *e, *top;
    uint64_t eax = 0, ebx = 0, ecx = 0, edx = 0;
    uint32_t function, index;

    sk_uc.reg_read(uc, UC_X86_REG_RAX, &eax);
    sk_uc.reg_read(uc, UC_X86_REG_RCX, &ecx);
    function = (uint32_t)eax;
    index = (uint32_t)ecx;
    e = find_leaf(v, function, index);
    top = find_leaf(v, function & 0x80000000, 0);
    if (!e && !(function & 0x40000000) && (!top || function > top->eax) && (top = find_leaf(v, 0, 0)))
        e = find_leaf(v, top->eax, index);
    eax = e ? e->eax : 0;
    ebx = e ? e->ebx : 0;
    ecx = e ? e->ecx : 0;
    edx = e ? e->edx : 0;
    if (e && function == 1) { /* OSXSAVE mirrors CR4 */
        sk_image_load(v);
        ecx = (ecx & ~(1ull << 27)) | (image_cr(&v->image, 4) >> 18 & 1) << 27;
    }
    sk_uc.reg_write(uc, UC_X86_REG_RAX, &eax);
    sk_uc.reg_write(uc, UC_X86_REG_RBX, &ebx);
    sk_uc.reg_write(uc, UC_X86_REG_RCX, &ecx);
    sk_uc.reg_write(uc, UC_X86_REG_RDX, &edx);
    return 1;
}

/* ---------------------------------------------------------------------------------------------- */

static bool add_insn(struct sk_vm *vm, void *callback, int insn)
{
    uc_hook hook;

    return sk_uc.hook_add(vm->uc, &hook, UC_HOOK_INSN, callback, vm, 1, 0, insn) == UC_OK;
}

bool sk_hooks_install(struct sk_vm *vm)
{
    uc_hook hook;
    bool ok = sk_uc.hook_add(vm->uc, &hook, UC_HOOK_BLOCK, (void *)on_block, vm, 1, 0) == UC_OK &&
              sk_uc.hook_add(vm->uc, &hook, UC_HOOK_INTR, (void *)on_interrupt, vm, 1, 0) == UC_OK &&
              sk_uc.hook_add(vm->uc, &hook, UC_HOOK_INSN_INVALID, (void *)on_invalid, vm, 1, 0) == UC_OK;

    ok = ok && add_insn(vm, (void *)sk_in, UC_X86_INS_IN) && add_insn(vm, (void *)sk_out, UC_X86_INS_OUT);
    ok = ok && add_insn(vm, (void *)on_syscall, UC_X86_INS_SYSCALL) && add_insn(vm, (void *)on_sysenter, UC_X86_INS_SYSENTER) && add_insn(vm, (void *)on_cpuid, UC_X86_INS_CPUID);
    ok = ok && add_insn(vm, (void *)on_rdtsc, UC_X86_INS_RDTSC) && add_insn(vm, (void *)on_rdtscp, UC_X86_INS_RDTSCP);
    sk_code_install(vm);
    return ok;
}
