/*
 * The engine's callbacks: where emulated code meets the rest of the machine.
 *
 * All run on a vCPU's engine stack, in the thread that holds the baton, with the engine in the
 * middle of an instruction.  A callback may change the vCPU only in the ways that the engine
 * honours there: IN, CPUID and RDTSC results by register writes, everything else through the image;
 * RIP by reg_write in the block callback only.
 */
#include "machine.h"

#include <errno.h>
#include <unistd.h>

static struct sk_vcpu *running(void *data) { return ((struct sk_vm *)data)->current; }

/* ---- blocks: the deterministic stop points --------------------------------------------------- */

static void stop(struct sk_vcpu *v, enum sk_stop why)
{
    v->stop = why;
    sk_uc.emu_stop(v->vm->uc);
}

/* An interrupt waits for IF or the end of a shadow: look again soon, but not at every block. */
static int32_t back_off(struct sk_vcpu *v)
{
    v->backoff = v->backoff >= 24 ? 24 + (int32_t)(v->slice_end & 7) : v->backoff * 2 + 1;
    return v->backoff;
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
        v->backoff = 0;
        leave_block(v);
        break;
    case SK_NOTHING:
        v->budget = back_off(v);
    }
}

static void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *data)
{
    struct sk_vcpu *v = running(data);

    (void)uc;
    if (--v->budget <= 0 && !v->replaced)
        look_around(v);
    else if (size <= 3 && sk_string_maybe(v->vm, address) && !v->replaced && sk_string_run(v, address, size))
        leave_block(v);
}

/* ---- exceptions ------------------------------------------------------------------------------ */

static void deliver(struct sk_vcpu *v, struct sk_event event)
{
    if (sk_deliver(v, event))
        sk_image_store(v);
    else
        stop(v, SK_STOP_SHUTDOWN);
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

static void on_syscall(uc_engine *uc, void *data)
{
    struct sk_vcpu *v = running(data);

    (void)uc;
    sk_image_load(v);
    if (!(image_u64(&v->image, v->image.at->efer) & SK_EFER_SCE)) {
        invalid_opcode(v);
        sk_image_load(v);
        image_set_u64(&v->image, v->image.at->eip, image_u64(&v->image, v->image.at->eip) - 2); /* the engine adds the length */
    } else {
        sk_enter_syscall(v);
    }
    sk_image_store(v);
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

/* ---- I/O ------------------------------------------------------------------------------------- */

/* ioeventfd, as KVM matches it: length 0 is any length, otherwise length (and datamatch) must agree. */
static bool signal_ioevent(const struct sk_vm *vm, uint32_t space, uint64_t address, unsigned size, uint64_t value)
{
    static const uint64_t one = 1;

    for (unsigned i = 0; i < vm->ioevent_count; i++) {
        const struct sk_ioevent *e = &vm->ioevents[i];

        if ((e->flags & KVM_IOEVENTFD_FLAG_PIO) != space || e->address != address || (e->length && e->length != size))
            continue;
        if ((e->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) && e->datamatch != value)
            continue;
        return write(e->fd, &one, sizeof one) == sizeof one || errno == EAGAIN; /* EAGAIN: the counter is full, the signal is there */
    }
    return false;
}

/* After an access to an interrupt controller there may be something to deliver. */
static void touched_chip(struct sk_vcpu *v)
{
    v->budget = 1;
    v->backoff = 0;
}

/* Between two I/O instructions of one block there is no other stop point than the second one. */
static void stop_before_io(struct sk_vcpu *v)
{
    if (v->replaced || !__atomic_load_n(&v->run->immediate_exit, __ATOMIC_ACQUIRE))
        return;
    v->in_hook = true;
    sk_leave(v, SK_INTERRUPTED);
    v->in_hook = false;
}

/*
 * The caller has set other registers at an I/O exit.  The block that is under way cannot be left, but
 * it can be kept from doing anything: with page tables that map nothing, its next access to memory
 * faults, and until then it changes only registers, which are dropped.
 */
static void give_up_block(struct sk_vcpu *v)
{
    struct sk_image *m = &v->image;
    uint8_t wanted[SK_MAX_IMAGE];

    memcpy(wanted, m->bytes, m->at->size);
    sk_image_load(v);
    image_set_u64(m, m->at->cr, image_cr(m, 0) | SK_CR0_PG | SK_CR0_PE);
    image_set_u64(m, m->at->cr + 24, SK_EMPTY_TABLES);
    image_set_u64(m, m->at->cr + 32, image_cr(m, 4) | SK_CR4_PAE);
    sk_image_store(v);
    memcpy(m->bytes, wanted, m->at->size);
    sk_uc.ctl(v->vm->uc, UC_CTL_FLUSH_TLB);
    sk_uc.emu_stop(v->vm->uc);
}

static void leave_for_io(struct sk_vcpu *v)
{
    if (v->replaced)
        return;
    v->in_hook = true;
    sk_leave(v, SK_EXIT);
    v->in_hook = false;
    if (v->replaced)
        give_up_block(v);
}

static uint8_t *prepare_pio(struct sk_vcpu *v, uint8_t direction, uint32_t port, int size)
{
    v->run->exit_reason = KVM_EXIT_IO;
    v->run->io.direction = direction;
    v->run->io.size = (uint8_t)size;
    v->run->io.port = (uint16_t)port;
    v->run->io.count = 1;
    v->run->io.data_offset = SK_PAGE;
    return (uint8_t *)v->run + SK_PAGE;
}

static uint32_t on_in(uc_engine *uc, uint32_t port, int size, void *data)
{
    struct sk_vcpu *v = running(data);
    struct sk_vm *vm = v->vm;
    uint32_t value = 0;
    uint8_t *page;

    (void)uc;
    if (vm->chip) {
        bool ours;

        pthread_mutex_lock(&vm->irq_lock);
        ours = sk_irqchip_pio_read(vm->chip, (uint16_t)port, (unsigned)size, &value, sk_now());
        pthread_mutex_unlock(&vm->irq_lock);
        if (ours)
            return value;
    }
    stop_before_io(v);
    page = prepare_pio(v, KVM_EXIT_IO_IN, port, size);
    memset(page, 0, 4);
    leave_for_io(v);
    memcpy(&value, page, (size_t)size);
    return value;
}

static void on_out(uc_engine *uc, uint32_t port, int size, uint32_t value, void *data)
{
    struct sk_vcpu *v = running(data);
    struct sk_vm *vm = v->vm;

    (void)uc;
    if (size < 4)
        value &= (1u << 8 * size) - 1;
    if (vm->chip) {
        bool ours;

        pthread_mutex_lock(&vm->irq_lock);
        ours = sk_irqchip_pio_write(vm->chip, (uint16_t)port, (unsigned)size, value, sk_now());
        pthread_mutex_unlock(&vm->irq_lock);
        if (ours) {
            touched_chip(v);
            return;
        }
    }
    if (signal_ioevent(vm, KVM_IOEVENTFD_FLAG_PIO, port, (unsigned)size, value))
        return;
    stop_before_io(v);
    memcpy(prepare_pio(v, KVM_EXIT_IO_OUT, port, size), &value, 4);
    leave_for_io(v);
}

static bool chip_mmio(struct sk_vcpu *v, uint64_t gpa, unsigned size, uint64_t *value, bool write)
{
    struct sk_vm *vm = v->vm;
    bool ours;

    if (!vm->chip)
        return false;
    pthread_mutex_lock(&vm->irq_lock);
    if (write) {
        ours = sk_irqchip_mmio_write(vm->chip, v->id, gpa, size, *value, sk_now());
        if (ours)
            sk_wake_all(vm); /* an inter-processor interrupt may be for a sleeping vCPU */
    } else {
        ours = sk_irqchip_mmio_read(vm->chip, v->id, gpa, size, value, sk_now());
    }
    pthread_mutex_unlock(&vm->irq_lock);
    if (ours && write)
        touched_chip(v);
    return ours;
}

/*
 * One MMIO access, by whoever claims it.  The engine hands a 64-bit access over as two of 32 bits, the
 * low half first (a memory hook would know better, but the first one makes every load of the guest slow).
 */
static void access_mmio(struct sk_vcpu *v, uint64_t gpa, unsigned size, uint64_t *value, bool write)
{
    struct kvm_run *run = v->run;

    if (chip_mmio(v, gpa, size, value, write) || (write && signal_ioevent(v->vm, 0, gpa, size, *value)))
        return;
    stop_before_io(v);
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.phys_addr = gpa;
    run->mmio.len = size;
    run->mmio.is_write = write;
    memset(run->mmio.data, 0, sizeof run->mmio.data);
    if (write)
        memcpy(run->mmio.data, value, size);
    leave_for_io(v);
    if (write)
        return;
    *value = 0;
    memcpy(value, run->mmio.data, size);
}

uint64_t sk_mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *data)
{
    const struct sk_hole *hole = data;
    struct sk_vcpu *v = hole->vm->current;
    uint64_t value = 0;

    (void)uc;
    access_mmio(v, hole->gpa + offset, size, &value, false);
    return value;
}

void sk_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *data)
{
    const struct sk_hole *hole = data;
    struct sk_vcpu *v = hole->vm->current;

    (void)uc;
    if (size < 8)
        value &= (1ull << 8 * size) - 1;
    access_mmio(v, hole->gpa + offset, size, &value, true);
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

    ok = ok && add_insn(vm, (void *)on_in, UC_X86_INS_IN) && add_insn(vm, (void *)on_out, UC_X86_INS_OUT);
    ok = ok && add_insn(vm, (void *)on_syscall, UC_X86_INS_SYSCALL) && add_insn(vm, (void *)on_cpuid, UC_X86_INS_CPUID);
    ok = ok && add_insn(vm, (void *)on_rdtsc, UC_X86_INS_RDTSC) && add_insn(vm, (void *)on_rdtscp, UC_X86_INS_RDTSCP);
    sk_code_install(vm);
    return ok;
}
